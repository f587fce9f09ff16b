//! Host tickets: the order of CPU accesses on a stream.
//!
//! Each access takes the next ticket and runs when all before it have ended. A ticket that was given up (a signal
//! ended the wait for its turn) is passed over.

use super::counter::Counter;
use rivulet_hal::sync::atomic::{AtomicU64, AtomicUsize, Ordering, fence};
use rivulet_hal::sync::{Mutex, Rank};
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Tickets {
    taken: AtomicU64,
    /// All up to this one have ended.
    ended: Counter,
    given_up_count: AtomicUsize,
    given_up: Mutex<Vec<u64>>,
}

impl Tickets {
    pub(crate) fn new() -> Self {
        Self {
            taken: AtomicU64::new(0),
            ended: Counter::new(),
            given_up_count: AtomicUsize::new(0),
            given_up: Mutex::new(Rank::EVENT, Vec::new()),
        }
    }

    /// Takes the next ticket.
    #[inline]
    pub(crate) fn take(&self) -> u64 {
        // AcqRel: who fixes a cursor on `taken` sees what was done before the tickets it counts.
        self.taken.fetch_add(1, Ordering::AcqRel) + 1
    }

    /// Highest ticket taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Acquire)
    }

    /// All tickets up to this one have ended.
    #[inline]
    pub(crate) fn ended(&self) -> u64 {
        self.ended.get()
    }

    /// True where the ticket's turn has come.
    #[inline]
    pub(crate) fn is_turn(&self, ticket: u64) -> bool {
        self.ended() + 1 >= ticket
    }

    /// Waits for at most `longest` until all tickets up to `ticket` have ended; true where they have.
    pub(crate) fn wait_step(&self, ticket: u64, longest: Duration) -> bool {
        self.ended.wait_step(ticket, longest)
    }

    /// The counter of ended tickets, for those who watch it.
    pub(crate) fn counter(&self) -> &Counter {
        &self.ended
    }

    /// Ends a ticket whose turn it was; true where somebody watches the counter, who has then been told.
    #[inline]
    pub(crate) fn end(&self, ticket: u64) -> bool {
        let watched = self.ended.set(ticket);
        // SeqCst: may not pass the store in `set`; pairs with `give_up`.
        if self.given_up_count.load(Ordering::SeqCst) > 0 {
            self.pass_over();
        }
        if watched {
            self.ended.wake();
        }
        watched
    }

    /// Gives up a ticket whose turn has not come.
    pub(crate) fn give_up(&self, ticket: u64) {
        self.given_up.lock().push(ticket);
        // SeqCst and a fence: either the thread that ends the ticket before passes this one over, or this thread
        // sees that its turn has come.
        self.given_up_count.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        self.pass_over();
    }

    #[cold]
    fn pass_over(&self) {
        let mut given_up = self.given_up.lock();
        let mut watched = false;
        loop {
            // The next ticket is on the list, so nobody but the lock's holder moves the counter now.
            let next = self.ended.get() + 1;
            let Some(place) = given_up.iter().position(|&ticket| ticket == next) else { break };
            given_up.swap_remove(place);
            self.given_up_count.fetch_sub(1, Ordering::Relaxed);
            watched = self.ended.set(next);
        }
        drop(given_up);
        if watched {
            self.ended.wake();
        }
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::Tickets;

    #[test]
    fn turns_come_in_order_and_given_up_tickets_are_passed_over() {
        let tickets = Tickets::new();
        let all: Vec<u64> = (0..5).map(|_| tickets.take()).collect();
        assert!(tickets.is_turn(all[0]) && !tickets.is_turn(all[1]));
        tickets.give_up(all[2]);
        tickets.give_up(all[1]);
        assert!(!tickets.is_turn(all[3]));
        tickets.end(all[0]);
        assert!(tickets.is_turn(all[3]) && !tickets.is_turn(all[4]));
        tickets.end(all[3]);
        tickets.give_up(all[4]);
        assert_eq!(tickets.ended(), 5);
    }
}
