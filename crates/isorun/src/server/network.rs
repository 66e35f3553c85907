//! The network access of runs: parameters are checked, rules and secrets are stored with
//! the run, and blocked connections are recorded.

mod order;
mod report;
mod routes;
mod settings;
mod trust;

#[cfg(any(test, feature = "fuzzing"))]
pub use order::fuzz_network;
pub use order::{credentials, network_params};
pub use report::BlockReporter;
pub use routes::{
    __path_change, __path_profile_list, __path_show, apply, change, profile_list, show,
};
pub use settings::Settings;
pub use trust::{environment, install};
