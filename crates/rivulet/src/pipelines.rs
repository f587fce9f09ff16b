//! Compiled kernels by key: each is compiled once, however many threads ask for it at the same time.
//!
//! Who asks first compiles, on its own thread and without any lock; others that need the same kernel wait for it, and
//! nobody else does. A kernel that is there is found without a lock.
//!
//! The table only grows: a program uses a few hundred kernels, and forgetting one would mean compiling it again.

use crate::blocking;
use crate::error::Result;
use rivulet_hal::sync::Arc;
use rivulet_hal::sync::atomic::{AtomicU32, Ordering};
use rivulet_hal::sync::parking;
use rivulet_hal::{HalError, Pipeline};
use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

/// Places of the first table; each further one has twice as many.
const FIRST: usize = 512;
/// Places looked at in a table before the next one is.
const PROBES: usize = 16;

/// Nobody is compiling.
const IDLE: u32 = 0;
/// Somebody is.
const COMPILING: u32 = 1;

/// Kernels of one device. Shared by all threads.
#[derive(Debug)]
pub struct Pipelines<K> {
    first: Table<K>,
}

#[derive(Debug)]
struct Table<K> {
    places: Box<[OnceLock<Place<K>>]>,
    next: OnceLock<Box<Table<K>>>,
}

#[derive(Debug)]
struct Place<K> {
    key: K,
    state: AtomicU32,
    /// Set once: the kernel, or why the compiler will never take it.
    outcome: OnceLock<std::result::Result<Arc<dyn Pipeline>, HalError>>,
}

/// A product and a rotation for each word. Keys come from the program, not from who might want them to collide, and one
/// is hashed for every op.
#[derive(Clone, Copy, Debug, Default)]
struct KeyHasher(u64);

impl KeyHasher {
    /// An odd number without pattern: the digits of the golden ratio.
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    #[inline]
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(Self::FACTOR);
    }
}

impl Hasher for KeyHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.add(u64::from(byte)));
    }

    #[inline]
    fn write_u8(&mut self, word: u8) {
        self.add(u64::from(word));
    }

    #[inline]
    fn write_u32(&mut self, word: u32) {
        self.add(u64::from(word));
    }

    #[inline]
    fn write_usize(&mut self, word: usize) {
        self.add(word as u64);
    }

    #[inline]
    fn write_isize(&mut self, word: isize) {
        self.add(word as u64);
    }

    #[inline]
    fn finish(&self) -> u64 {
        // A product is well mixed in its upper bits, and tables take the lower ones.
        self.0.rotate_left(26)
    }
}

impl<K: Eq + Hash + Clone> Default for Pipelines<K> {
    fn default() -> Self {
        Self { first: Table::new(FIRST) }
    }
}

impl<K: Eq + Clone> Table<K> {
    /// The place of a key where it has one.
    #[inline]
    fn find(&self, hash: usize, key: &K) -> Option<&Place<K>> {
        // The number of places is a power of two.
        let mask = self.places.len() - 1;
        let at = |probe| self.places.get(hash.wrapping_add(probe) & mask).and_then(OnceLock::get);
        (0..PROBES).map_while(at).find(|place| place.key == *key)
    }

    fn new(places: usize) -> Self {
        Self { places: (0..places).map(|_| OnceLock::new()).collect(), next: OnceLock::new() }
    }

    /// The place of a key, taken for it where it has none yet.
    fn place(&self, hash: usize, key: &K) -> Option<&Place<K>> {
        (0..PROBES).find_map(|probe| {
            // Two threads that come at once for different keys both get here: one of them goes on to the next place.
            let place = self.places[hash.wrapping_add(probe) % self.places.len()].get_or_init(|| Place {
                key: key.clone(),
                state: AtomicU32::new(IDLE),
                outcome: OnceLock::new(),
            });
            (place.key == *key).then_some(place)
        })
    }
}

impl<K: Eq + Hash + Clone> Pipelines<K> {
    /// The kernel of this key where it is compiled. Any thread; never waits.
    #[inline]
    pub fn find(&self, key: &K) -> Option<&Arc<dyn Pipeline>> {
        let hash = Self::hash(key);
        let mut table = Some(&self.first);
        while let Some(now) = table {
            if let Some(place) = now.find(hash, key) {
                return place.outcome.get()?.as_ref().ok();
            }
            table = now.next.get().map(Box::as_ref);
        }
        None
    }

    #[inline]
    fn hash(key: &K) -> usize {
        let mut hasher = KeyHasher::default();
        key.hash(&mut hasher);
        hasher.finish() as usize
    }

    /// The kernel of this key; `compile` makes it where nobody has. Any thread; waits, without the interpreter's lock,
    /// only for a thread that is compiling this very kernel.
    ///
    /// # Errors
    /// What `compile` said. A [`HalError::Compile`] is kept, since the same text would fail again; after any other
    /// error the next caller tries anew. [`crate::Error::Interrupted`] where a signal ended the wait.
    pub fn get(
        &self,
        key: &K,
        compile: impl FnOnce() -> std::result::Result<Arc<dyn Pipeline>, HalError>,
    ) -> Result<std::result::Result<&Arc<dyn Pipeline>, HalError>> {
        let place = self.place(key);
        let known = || place.outcome.get().map(|outcome| outcome.as_ref().map_err(Clone::clone));
        loop {
            if let Some(outcome) = known() {
                return Ok(outcome);
            }
            let mine = place.state.compare_exchange(IDLE, COMPILING, Ordering::Acquire, Ordering::Relaxed);
            if mine.is_ok() {
                let turn = Turn(place);
                // Somebody may have finished between the look and the exchange.
                let outcome = match known() {
                    Some(outcome) => outcome,
                    None => match compile() {
                        Err(error) if !matches!(error, HalError::Compile { .. }) => Err(error),
                        made => place.outcome.get_or_init(|| made).as_ref().map_err(Clone::clone),
                    },
                };
                drop(turn);
                return Ok(outcome);
            }
            let busy = || place.outcome.get().is_none() && place.state.load(Ordering::Acquire) == COMPILING;
            blocking::wait_loop(|longest| {
                parking::park(place.address(), busy, Some(longest));
                !busy()
            })?;
        }
    }

    /// Calls `look` for every kernel that was asked for and is settled: its key, and the compiler's error where it will
    /// never be there. In no order. Any thread; one that is being compiled meanwhile may be left out.
    pub fn for_each(&self, mut look: impl FnMut(&K, Option<&HalError>)) {
        let mut table = Some(&self.first);
        while let Some(now) = table {
            for place in now.places.iter().filter_map(OnceLock::get) {
                if let Some(outcome) = place.outcome.get() {
                    look(&place.key, outcome.as_ref().err());
                }
            }
            table = now.next.get().map(Box::as_ref);
        }
    }

    /// Kernels that are compiled.
    pub fn len(&self) -> usize {
        let mut count = 0;
        let mut table = Some(&self.first);
        while let Some(now) = table {
            let ready = |place: &&Place<K>| matches!(place.outcome.get(), Some(Ok(_)));
            count += now.places.iter().filter_map(OnceLock::get).filter(ready).count();
            table = now.next.get().map(Box::as_ref);
        }
        count
    }

    /// True where nothing was compiled yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn place(&self, key: &K) -> &Place<K> {
        let hash = Self::hash(key);
        let mut table = &self.first;
        loop {
            if let Some(place) = table.place(hash, key) {
                return place;
            }
            table = table.next.get_or_init(|| Box::new(Table::new(table.places.len() * 2)));
        }
    }
}

impl<K> Place<K> {
    fn address(&self) -> usize {
        (&raw const self.state).addr()
    }
}

/// The turn to compile; given up also where the compiler panics, so that nobody waits for ever.
struct Turn<'p, K>(&'p Place<K>);

impl<K> Drop for Turn<'_, K> {
    fn drop(&mut self) {
        self.0.state.store(IDLE, Ordering::Release);
        parking::unpark_all(self.0.address());
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use rivulet_hal::sync::atomic::AtomicUsize;
    use rivulet_hal::{PipelineDesc, PipelineSource, host};
    use std::sync::Barrier;
    use std::time::Duration;

    fn kernel(label: &str) -> std::result::Result<Arc<dyn Pipeline>, HalError> {
        host::open().pipeline(&PipelineDesc {
            label: label.to_owned(),
            source: PipelineSource::Host(|_, _, _| ()),
            bindings: 0,
            param_bytes: 0,
            workgroup: [1; 3],
        })
    }

    #[test]
    fn threads_that_need_one_kernel_compile_it_once() {
        let (pipelines, compiled) = (Pipelines::default(), AtomicUsize::new(0));
        let start = Barrier::new(16);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    start.wait();
                    let got = pipelines.get(&7, || {
                        compiled.fetch_add(1, Ordering::SeqCst);
                        std::thread::sleep(Duration::from_millis(20));
                        kernel("seven")
                    });
                    assert_eq!(got.unwrap().unwrap().label(), "seven");
                });
            }
        });
        assert_eq!((compiled.load(Ordering::SeqCst), pipelines.len()), (1, 1));
    }

    #[test]
    fn a_slow_kernel_holds_nobody_up_who_needs_another() {
        let pipelines = Pipelines::default();
        let (begun, other_done) = (Barrier::new(2), Barrier::new(2));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let slow = pipelines.get(&1, || {
                    begun.wait();
                    other_done.wait();
                    kernel("slow")
                });
                assert!(slow.unwrap().is_ok());
            });
            begun.wait();
            // While the first is being compiled, a thousand others are, and found again.
            for key in 2..1002 {
                assert_eq!(
                    pipelines.get(&key, || kernel(&key.to_string())).unwrap().unwrap().label(),
                    key.to_string()
                );
                let again = pipelines.get(&key, || panic!("compiled twice")).unwrap();
                assert_eq!(again.unwrap().label(), key.to_string());
            }
            other_done.wait();
        });
        assert_eq!(pipelines.len(), 1001);
    }

    #[test]
    fn what_was_compiled_and_what_never_will_be_is_told_and_what_may_yet_be_is_not() {
        let pipelines = Pipelines::default();
        let refused =
            |label: &str| HalError::Compile { label: label.to_owned(), reason: "line 3".to_owned() };
        // More than the first table's places, so that the second is looked at too.
        for key in 0..1000 {
            assert!(pipelines.get(&key, || kernel("good")).unwrap().is_ok());
        }
        assert!(pipelines.get(&1000, || Err(refused("bad"))).unwrap().is_err());
        assert!(
            pipelines
                .get(&1001, || Err(HalError::OutOfMemory { requested: 1, detail: String::new() }))
                .unwrap()
                .is_err()
        );
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        pipelines.for_each(|&key, error| match error {
            None => good.push(key),
            Some(error) => bad.push((key, error.to_string())),
        });
        good.sort_unstable();
        assert_eq!(good, (0..1000).collect::<Vec<_>>());
        assert_eq!(bad, [(1000, refused("bad").to_string())]);
    }

    #[test]
    fn what_will_never_compile_is_not_tried_again_and_what_may_is() {
        let pipelines = Pipelines::default();
        let hopeless = HalError::Compile { label: "add".to_owned(), reason: "no such type".to_owned() };
        for _ in 0..2 {
            let error = pipelines.get(&"add", || Err(hopeless.clone())).unwrap().unwrap_err();
            assert_eq!(error, hopeless);
        }
        assert!(pipelines.get(&"add", || panic!("tried again")).unwrap().is_err());
        let short = HalError::OutOfMemory { requested: 1, detail: "full".to_owned() };
        assert_eq!(pipelines.get(&"mul", || Err(short.clone())).unwrap().unwrap_err(), short);
        assert!(pipelines.get(&"mul", || kernel("mul")).unwrap().is_ok());
        assert!(!pipelines.is_empty());
    }

    #[test]
    fn a_panic_of_the_compiler_leaves_the_kernel_to_the_next_thread() {
        let pipelines = Pipelines::default();
        let inside = Barrier::new(2);
        std::thread::scope(|scope| {
            let first = scope.spawn(|| {
                let _ = pipelines.get(&1, || {
                    inside.wait();
                    std::thread::sleep(Duration::from_millis(20));
                    panic!("the compiler fell over")
                });
            });
            inside.wait();
            assert!(
                pipelines.get(&1, || kernel("one")).unwrap().is_ok(),
                "waited for the first, then compiled"
            );
            assert!(first.join().is_err());
        });
    }
}
