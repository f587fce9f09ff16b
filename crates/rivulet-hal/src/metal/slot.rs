//! A bound on the threads that encode at the same time.

use crate::sync::{Condvar, Mutex, Rank};

/// Places for encoding threads. A thread holds its place for as long as it makes calls of Metal's, microseconds, and
/// waits for nothing meanwhile.
#[derive(Debug)]
pub(super) struct Slots {
    places: Mutex<Places>,
    freed: Condvar,
    count: usize,
}

#[derive(Debug)]
struct Places {
    free: usize,
    /// A thread waits for all of them, and nobody gets one before it.
    all_wanted: bool,
}

/// All places; given back when dropped.
#[derive(Debug)]
pub(super) struct AllSlots<'a>(&'a Slots);

/// A taken place; given back when dropped.
#[derive(Debug)]
pub(super) struct Slot<'a>(&'a Slots);

impl Slots {
    pub(super) fn new(count: usize) -> Self {
        let places = Places { free: count, all_wanted: false };
        Self { places: Mutex::new(Rank::DRIVER, places), freed: Condvar::new(), count }
    }

    /// Waits for a place.
    pub(super) fn take(&self) -> Slot<'_> {
        let mut places = self.places.lock();
        while places.free == 0 || places.all_wanted {
            places = self.freed.wait(places);
        }
        places.free -= 1;
        Slot(self)
    }

    /// Waits until nobody encodes, and keeps everybody from it.
    pub(super) fn take_all(&self) -> AllSlots<'_> {
        let mut places = self.places.lock();
        while places.all_wanted {
            places = self.freed.wait(places);
        }
        places.all_wanted = true;
        while places.free < self.count {
            places = self.freed.wait(places);
        }
        AllSlots(self)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut places = self.0.places.lock();
        places.free += 1;
        let all_wanted = places.all_wanted;
        drop(places);
        if all_wanted {
            self.0.freed.notify_all();
        } else {
            self.0.freed.notify_one();
        }
    }
}

impl Drop for AllSlots<'_> {
    fn drop(&mut self) {
        self.0.places.lock().all_wanted = false;
        self.0.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::Slots;
    use crate::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn no_more_threads_than_places_are_inside() {
        let slots = Slots::new(2);
        let (inside, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let slot = slots.take();
                        most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        std::thread::yield_now();
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(slot);
                    }
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn who_has_all_places_is_alone() {
        let slots = Slots::new(2);
        let inside = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for number in 0..6 {
                let (slots, inside) = (&slots, &inside);
                scope.spawn(move || {
                    for _ in 0..50 {
                        if number < 2 {
                            let all = slots.take_all();
                            assert_eq!(inside.fetch_add(9, Ordering::SeqCst), 0);
                            std::thread::yield_now();
                            assert_eq!(inside.fetch_sub(9, Ordering::SeqCst), 9);
                            drop(all);
                        } else {
                            let slot = slots.take();
                            assert!(inside.fetch_add(1, Ordering::SeqCst) < 2);
                            std::thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                            drop(slot);
                        }
                    }
                });
            }
        });
    }
}
