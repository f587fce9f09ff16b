//! Coalescing for Rust programs.

use super::metrics::Stats;
use super::queue::{BadOption, Options, Queue, Refused, Turn, WhenFull};
use super::run::Run;
use rivulet_hal::sync::{Arc, Mutex, Rank};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

/// What a [`Batcher`] runs. Called on the threads of callers, with [`Options::max_in_flight`] above 1 several at a time.
pub trait Work: Send + Sync {
    /// What a call brings along: its rows.
    type Input: Send;
    /// What a call takes home.
    type Output: Send;
    /// Why it failed.
    type Error: Send;

    /// Inputs whose keys are equal may be joined: the same shapes but for the number of rows, the same types.
    fn key(&self, input: &Self::Input) -> u64;

    /// Rows of an input.
    fn rows(&self, input: &Self::Input) -> usize;

    /// Runs inputs of one key as one; a result for each, in their order.
    ///
    /// # Errors
    /// A failure of more than one input is nobody's: each of them is then run alone, and gets what that gives. So an
    /// input may be seen twice.
    fn run(&self, inputs: &[Self::Input]) -> Result<Vec<Self::Output>, Self::Error>;
}

/// Why a [`Batcher::call`] failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError<E> {
    /// The queue did not take the request, or not in time.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The work failed for this input.
    #[error("{0}")]
    Failed(E),
    /// The work panicked on another thread, for this input alone.
    #[error("the work panicked: {0}")]
    Panicked(String),
    /// [`Work::run`] broke its contract.
    #[error("the work gave {got} results for {wanted} inputs")]
    WrongCount {
        /// Inputs.
        wanted: usize,
        /// Results.
        got: usize,
    },
}

type Outcome<W> = Result<<W as Work>::Output, BatchError<<W as Work>::Error>>;

struct Slot<W: Work> {
    input: Mutex<Option<W::Input>>,
    outcome: Mutex<Option<Outcome<W>>>,
}

/// Joins calls from any number of threads, see the [module](super).
///
/// ```
/// use rivulet::batch::{BatchError, Batcher, Options, Work};
///
/// struct Doubler;
///
/// impl Work for Doubler {
///     type Input = Vec<u32>;
///     type Output = Vec<u32>;
///     type Error = String;
///
///     fn key(&self, input: &Vec<u32>) -> u64 {
///         input.len() as u64
///     }
///     fn rows(&self, _: &Vec<u32>) -> usize {
///         1
///     }
///     fn run(&self, inputs: &[Vec<u32>]) -> Result<Vec<Vec<u32>>, String> {
///         Ok(inputs.iter().map(|row| row.iter().map(|x| 2 * x).collect()).collect())
///     }
/// }
///
/// let batcher = Batcher::new(Doubler, Options::default())?;
/// std::thread::scope(|scope| {
///     for me in 0..4 {
///         let batcher = &batcher;
///         scope.spawn(move || assert_eq!(batcher.call(vec![me, 7]), Ok(vec![2 * me, 14])));
///     }
/// });
/// assert_eq!(batcher.stats().requests, 4);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Batcher<W: Work> {
    work: W,
    queue: Queue<Slot<W>>,
}

impl<W: Work> Batcher<W> {
    /// A batcher that has nothing to do yet. Makes no thread.
    ///
    /// # Errors
    /// [`BadOption`] for a limit of 0.
    pub fn new(work: W, options: Options) -> Result<Self, BadOption> {
        Ok(Self { work, queue: Queue::new(options)? })
    }

    /// The result of one input, run alone or with others. Waits; where the queue is full too.
    ///
    /// # Errors
    /// [`BatchError`], of this input alone.
    ///
    /// # Panics
    /// Where the work panics for this input on the calling thread.
    pub fn call(&self, input: W::Input) -> Result<W::Output, BatchError<W::Error>> {
        self.call_with(input, WhenFull::Wait, None)
    }

    /// The same, with a choice for a full queue and a time after which the caller leaves. A batch that is running then
    /// goes on without it.
    ///
    /// # Errors
    /// As [`Batcher::call`].
    ///
    /// # Panics
    /// As [`Batcher::call`].
    pub fn call_with(
        &self,
        input: W::Input,
        full: WhenFull,
        timeout: Option<Duration>,
    ) -> Result<W::Output, BatchError<W::Error>> {
        let (key, rows) = (self.work.key(&input), self.work.rows(&input));
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let slot =
            Slot { input: Mutex::new(Rank::BATCH, Some(input)), outcome: Mutex::new(Rank::BATCH, None) };
        let (request, panic) = match self.queue.call(key, rows, slot, full, deadline)? {
            Turn::Done(request) => (request, None),
            Turn::Run(run) => {
                let own = Arc::clone(&run.members()[0]);
                (own, self.run(run))
            }
        };
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
        let outcome = request.work().outcome.lock().take();
        outcome.unwrap_or(Err(BatchError::WrongCount { wanted: 1, got: 0 }))
    }

    /// Serves every member; the panic that the caller's own input ended with.
    fn run(&self, run: Run<Slot<W>>) -> Option<Panic> {
        let (mut slots, mut inputs) = (Vec::new(), Vec::new());
        for member in run.members().iter().filter(|member| !member.is_abandoned()) {
            let input = member.work().input.lock().take();
            if let Some(input) = input {
                slots.push(member.work());
                inputs.push(input);
            }
        }
        run.announce();
        let mut panic = None;
        match self.try_run(&inputs) {
            Ok(outcomes) => {
                for (slot, outcome) in slots.iter().zip(outcomes) {
                    slot.give(outcome);
                }
            }
            Err(failure) if inputs.len() < 2 => {
                panic = slots.first().and_then(|slot| slot.fail(failure, true))
            }
            Err(_) => {
                for (index, (slot, input)) in slots.iter().zip(&inputs).enumerate() {
                    match self.try_run(std::slice::from_ref(input)) {
                        Ok(outcomes) => outcomes.into_iter().for_each(|outcome| slot.give(outcome)),
                        Err(failure) => panic = slot.fail(failure, index == 0).or(panic),
                    }
                }
            }
        }
        drop(inputs);
        run.finish();
        panic
    }

    /// An outcome for each input, or why there is none.
    fn try_run(&self, inputs: &[W::Input]) -> Result<Vec<Outcome<W>>, Failure<W::Error>> {
        // What the work may have left half done is the work's own; the queue is not touched here.
        match catch_unwind(AssertUnwindSafe(|| self.work.run(inputs))) {
            Ok(Ok(outputs)) if outputs.len() == inputs.len() => Ok(outputs.into_iter().map(Ok).collect()),
            Ok(Ok(outputs)) => {
                let (wanted, got) = (inputs.len(), outputs.len());
                Ok((0..wanted).map(|_| Err(BatchError::WrongCount { wanted, got })).collect())
            }
            Ok(Err(error)) => Err(Failure::Error(error)),
            Err(panic) => Err(Failure::Panic(panic)),
        }
    }

    /// Takes no more calls: they fail with [`Refused::Closed`]. Those that wait are still served.
    pub fn close(&self) {
        self.queue.close();
    }

    /// Counts and times since it was made.
    pub fn stats(&self) -> Stats {
        self.queue.stats()
    }

    /// The work.
    pub fn work(&self) -> &W {
        &self.work
    }
}

impl<W: Work> Slot<W> {
    fn give(&self, outcome: Outcome<W>) {
        *self.outcome.lock() = Some(outcome);
    }

    /// Leaves a failure for the slot's owner. A panic of the runner's own input is handed back instead.
    fn fail(&self, failure: Failure<W::Error>, own: bool) -> Option<Panic> {
        match failure {
            Failure::Error(error) => self.give(Err(BatchError::Failed(error))),
            Failure::Panic(panic) if own => return Some(panic),
            Failure::Panic(panic) => self.give(Err(BatchError::Panicked(text_of(&*panic)))),
        }
        None
    }
}

type Panic = Box<dyn std::any::Any + Send>;

enum Failure<E> {
    Error(E),
    Panic(Panic),
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}
