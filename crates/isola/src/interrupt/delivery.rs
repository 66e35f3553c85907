//! The delivery of interrupts to one guest.

use super::word::GuestMemory;

/// The delivery of interrupts to one guest.
#[derive(Default)]
pub(crate) struct Delivery {
    /// The guest's memory, once it is known.
    pub(crate) memory: Option<GuestMemory>,
    /// The address of the word and its bits, while code runs that can be interrupted.
    target: Option<(u32, u32)>,
    /// `true` if the request was delivered or reported.
    done: bool,
}

impl Delivery {
    /// Begins code: the next request is a new one.
    pub(crate) fn begin(&mut self) {
        self.target = None;
        self.done = false;
    }

    /// Sets the word of the guest. Reports whether it can be used.
    pub(crate) fn set_target(&mut self, address: u32, mask: u32) -> bool {
        let fits = self.memory.as_ref().is_some_and(|memory| memory.contains(address));
        self.target = (mask != 0 && fits).then_some((address, mask));
        self.target.is_some()
    }

    /// Sets the bits in the guest's memory, once for each request, and reports whether it
    /// has. Must be called while the guest is suspended, on the thread that runs it.
    pub(crate) fn deliver(&mut self) -> bool {
        if let (false, Some((address, mask)), Some(memory)) =
            (self.done, self.target, &mut self.memory)
        {
            memory.set_bits(address, mask);
            self.done = true;
            return true;
        }
        false
    }

    /// Reports whether a request has not been reported to the guest.
    pub(crate) fn take_unreported(&mut self) -> bool {
        !std::mem::replace(&mut self.done, true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

    use super::*;

    #[test]
    fn words_outside_of_the_memory_are_not_written() {
        let bytes: Vec<AtomicU8> = (0..16).map(|_| AtomicU8::new(0)).collect();
        let mut delivery = Delivery::default();
        assert!(!delivery.set_target(0, 1));
        delivery.memory = Some(GuestMemory::of_cells(&bytes));
        for address in [13, 16, u32::MAX, u32::MAX - 3] {
            assert!(!delivery.set_target(address, 1), "{address}");
            assert!(!delivery.deliver());
        }
        assert!(!delivery.set_target(4, 0));
        assert!(delivery.set_target(5, 0x0100_0002));
        assert!(delivery.deliver() && !delivery.deliver());
        let written: Vec<u8> = bytes.iter().map(|byte| byte.load(Relaxed)).collect();
        assert_eq!(written[4..10], [0, 2, 0, 0, 1, 0]);
    }
}
