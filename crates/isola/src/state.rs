//! The state of an idle guest: its memory, a few globals and its private files.
//!
//! The memory is an image (`linear_memory`), which becomes that of other guests.

use std::sync::{Arc, OnceLock, atomic::AtomicBool};

use crate::{
    files::Tree,
    linear_memory::{PageRange, image::Image},
};

pub(crate) mod in_use;
pub(crate) mod map;

/// The state of a guest.
pub(crate) struct GuestState {
    pub(crate) image: Arc<Image>,
    /// The private files; `None` if the guest had none.
    pub(crate) files: Option<Tree>,
    /// The bits of each global, in the accessor's order.
    pub(crate) globals: Vec<u64>,
    /// The time of the guest's monotonic clock, from which it continues.
    pub(crate) monotonic: u64,
    /// The pages that guests write soon after they continue from this state.
    pub(crate) hot_pages: OnceLock<Vec<PageRange>>,
    /// `true` if a guest has already continued from this state.
    pub(crate) resumed: AtomicBool,
    /// `true` if other sandboxes can share it, as long as one holds it.
    pub(crate) shared: bool,
}

/// The current use of a guest's accessor.
#[derive(Default)]
pub(crate) enum Transfer {
    /// No call is in progress.
    #[default]
    Idle,
    /// The state of the guest is saved.
    Saving { globals: Vec<u64>, image: Option<Image> },
    /// A state is loaded into the guest.
    Loading(Arc<GuestState>),
    /// The pages that the guest has written are recorded.
    Tracing(Vec<PageRange>),
    /// The address of the guest's memory is kept, for interrupts.
    Locating,
    /// The pages that the guest is expected to write are copied.
    Populating(Arc<GuestState>),
}
