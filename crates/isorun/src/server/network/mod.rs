//! What runs reach over the network: orders become rules and secrets, are kept
//! with the run, and what was blocked goes on record.

mod order;
mod report;
mod routes;
mod settings;
mod trust;

#[cfg(any(test, feature = "fuzzing"))]
pub use order::fuzz_network;
pub use order::{credentials, order};
pub use report::Blocks;
pub use routes::{
    __path_change, __path_profile_list, __path_show, apply, change, profile_list, show,
};
pub use settings::Settings;
pub use trust::{environment, install};
