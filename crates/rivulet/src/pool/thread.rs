//! What a thread remembers of each device: its place in the pool, its explicit stream, and whether it is in an op.

use super::slots::Lease;
use super::{Place, Streams, hooks};
use crate::engine::Engine;
use crate::error::Result;
use crate::ids::StreamId;
use rivulet_hal::sync::{self, Weak};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Where a thread runs while it has set no explicit stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seat {
    /// Not decided yet, or given back.
    None,
    /// The main thread's stream.
    Main,
    /// The stream of service threads.
    Reserve,
    /// A slot of its own.
    Owned(Lease),
    /// Another thread's slot, beside it.
    Shared(usize),
}

/// One thread's memory of one device. Dropped when the thread ends, which gives the slot back.
pub(crate) struct Local {
    engine: Weak<Engine>,
    serial: u64,
    seat: Cell<Seat>,
    explicit: Cell<Option<StreamId>>,
    /// Ops that this thread is inside of.
    depth: Cell<u32>,
    /// True while the own slot's word says that its thread is in an op.
    entered: Cell<bool>,
    /// Stream of the outermost op.
    op_stream: Cell<StreamId>,
    /// Give the slot back when the op ends.
    leaving: Cell<bool>,
}

#[cfg(not(loom))]
sync::thread_local! {
    static LOCALS: RefCell<Vec<Rc<Local>>> = const { RefCell::new(Vec::new()) };
}
#[cfg(loom)]
sync::thread_local! {
    static LOCALS: RefCell<Vec<Rc<Local>>> = RefCell::new(Vec::new());
}

/// This thread's memory of `engine`; `None` while the thread's locals are being torn down.
#[inline]
pub(crate) fn local(engine: &Engine) -> Option<Rc<Local>> {
    LOCALS
        .try_with(|locals| {
            let found = locals.borrow().iter().find(|local| local.serial == engine.serial).cloned();
            found.unwrap_or_else(|| Local::add(engine, locals))
        })
        .ok()
}

/// As [`local`], but `None` too where the thread has not used the device yet.
pub(crate) fn existing(engine: &Engine) -> Option<Rc<Local>> {
    let find = |locals: &RefCell<Vec<Rc<Local>>>| {
        locals.borrow().iter().find(|local| local.serial == engine.serial).cloned()
    };
    LOCALS.try_with(find).ok().flatten()
}

impl Local {
    #[cold]
    fn add(engine: &Engine, locals: &RefCell<Vec<Rc<Self>>>) -> Rc<Self> {
        let local = Rc::new(Self {
            engine: engine.weak(),
            serial: engine.serial,
            seat: Cell::new(Seat::None),
            explicit: Cell::new(None),
            depth: Cell::new(0),
            entered: Cell::new(false),
            op_stream: Cell::new(StreamId::DEFAULT),
            leaving: Cell::new(false),
        });
        let mut locals = locals.borrow_mut();
        // Devices come and go in tests; what they left behind must not slow the search down.
        locals.retain(|other| other.engine.strong_count() > 0);
        locals.push(Rc::clone(&local));
        local
    }

    /// The stream that this thread's next op runs on, without taking a slot for it.
    pub(crate) fn peek(&self, engine: &Engine) -> Option<StreamId> {
        if let Some(explicit) = self.explicit.get() {
            return Some(explicit);
        }
        if self.depth.get() > 0 {
            return Some(self.op_stream.get());
        }
        self.own(engine)
    }

    fn stream_of(seat: Seat, reserve: StreamId) -> StreamId {
        match seat {
            Seat::None | Seat::Main => StreamId::DEFAULT,
            Seat::Reserve => reserve,
            // A pool has at most 1024 slots.
            Seat::Owned(Lease { slot, .. }) | Seat::Shared(slot) => {
                StreamId(u32::try_from(slot).unwrap_or(u32::MAX))
            }
        }
    }

    /// The stream of this thread; takes a slot where it has none, and may wait for it.
    pub(crate) fn current(&self, engine: &Engine) -> Result<StreamId> {
        if let Some(stream) = self.peek(engine) {
            return Ok(stream);
        }
        let stream = self.sit(engine)?;
        self.leave_slot(engine);
        Ok(stream)
    }

    /// Takes a seat; an owned slot is then in the state of an op.
    #[cold]
    fn sit(&self, engine: &Engine) -> Result<StreamId> {
        let table = engine.table()?;
        let mut took_slot = false;
        let seat = if engine.is_main_thread() {
            Seat::Main
        } else if hooks().is_some_and(|hooks| hooks.is_service_thread()) {
            Seat::Reserve
        } else {
            took_slot = true;
            match super::take(&table.slots, engine.env(), engine)? {
                Place::Owned(lease) => Seat::Owned(lease),
                Place::Shared(slot) => Seat::Shared(slot),
            }
        };
        self.seat.set(seat);
        self.entered.set(matches!(seat, Seat::Owned(_)));
        if took_slot && let Some(hooks) = hooks() {
            hooks.slot_taken();
        }
        Ok(Self::stream_of(seat, table.reserve()))
    }

    /// Ends what [`Local::sit`] or [`Local::enter`] began for the slot.
    #[inline]
    fn leave_slot(&self, engine: &Engine) {
        if self.entered.replace(false)
            && let (Seat::Owned(lease), Some(table)) = (self.seat.get(), engine.table_if_made())
        {
            table.slots.exit(lease, self.explicit.get().is_some());
            if table.slots.anyone_waits() && table.slots.hand_over(lease, &|slot| engine.is_complete(slot)) {
                self.seat.set(Seat::None);
            }
        }
    }

    /// Begins an op on the thread's stream; on `given` where the caller names one.
    #[inline]
    pub(crate) fn enter(&self, engine: &Engine, given: Option<StreamId>) -> Result<Entry> {
        let depth = self.depth.get();
        if depth > 0 {
            self.depth.set(depth + 1);
            let stream = given.or(self.explicit.get()).unwrap_or(self.op_stream.get());
            return Ok(Entry { stream, outermost: false });
        }
        let stream = match (given.or(self.explicit.get()), self.seat.get(), engine.table_if_made()) {
            (Some(stream), ..) => stream,
            (None, Seat::Owned(lease), Some(table)) if table.slots.enter(lease) => {
                self.entered.set(true);
                Self::stream_of(Seat::Owned(lease), StreamId::DEFAULT)
            }
            (None, Seat::None | Seat::Owned(_), _) | (None, _, None) => self.sit(engine)?,
            (None, seat, Some(table)) => Self::stream_of(seat, table.reserve()),
        };
        self.depth.set(1);
        self.op_stream.set(stream);
        Ok(Entry { stream, outermost: true })
    }

    /// True while the thread is inside an op.
    pub(crate) fn in_op(&self) -> bool {
        self.depth.get() > 0
    }

    /// Ends an op.
    #[inline]
    pub(crate) fn exit(&self, engine: &Engine) {
        let depth = self.depth.get().saturating_sub(1);
        self.depth.set(depth);
        if depth > 0 {
            return;
        }
        self.leave_slot(engine);
        if self.leaving.get() {
            self.leaving.set(false);
            self.release(engine);
        }
    }

    /// Sets or clears the explicit stream; what the thread's next op would have run on. Going to the own slot's
    /// stream clears it: that is what restoring an earlier answer means.
    pub(crate) fn exchange(&self, engine: &Engine, stream: Option<StreamId>) -> Option<StreamId> {
        let before = self.peek(engine);
        let own = self.own(engine);
        let explicit = stream.filter(|&stream| Some(stream) != own);
        self.explicit.set(explicit);
        // Inside an op on the own slot, the end of the op writes what then holds.
        if !self.entered.get()
            && let (Seat::Owned(lease), Some(table)) = (self.seat.get(), engine.table_if_made())
        {
            if explicit.is_none() {
                table.slots.unhold(lease);
            } else if !table.slots.hold(lease) && !table.slots.owns(lease) {
                self.seat.set(Seat::None);
            }
        }
        before
    }

    fn own(&self, engine: &Engine) -> Option<StreamId> {
        let table = engine.table_if_made()?;
        match self.seat.get() {
            Seat::None => None,
            Seat::Owned(lease) if !table.slots.owns(lease) => None,
            seat => Some(Self::stream_of(seat, table.reserve())),
        }
    }

    /// Makes this thread the main one.
    pub(crate) fn adopt_main(&self, engine: &Engine) {
        self.release(engine);
        self.seat.set(Seat::Main);
    }

    /// Gives the slot back; at the end of the op where the thread is inside one. No driver is called and nothing
    /// waits: what the stream has recorded is left to the next submission.
    pub(crate) fn release(&self, engine: &Engine) {
        if self.depth.get() > 0 {
            self.leaving.set(true);
            return;
        }
        let Some(table) = engine.table_if_made() else { return };
        match self.seat.replace(Seat::None) {
            Seat::None => {}
            Seat::Main => self.seat.set(Seat::Main),
            Seat::Reserve => self.seat.set(Seat::Reserve),
            Seat::Shared(slot) => table.slots.unshare(slot),
            Seat::Owned(lease) => {
                engine.leave_open_work(Self::stream_of(Seat::Owned(lease), StreamId::DEFAULT));
                table.slots.release(lease);
            }
        }
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        // A child of a fork has copies of other threads' locks, in whatever state they were.
        if let Some(engine) = self.engine.upgrade()
            && !engine.is_forked()
        {
            self.depth.set(0);
            self.release(&engine);
        }
    }
}

/// An op that has begun.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) stream: StreamId,
    /// False inside another op of the same thread, which covers it.
    pub(crate) outermost: bool,
}
