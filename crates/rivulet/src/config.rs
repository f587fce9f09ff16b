//! Settings, and the one place where the environment is read.
//!
//! Variables are looked up when they matter, not when the library is loaded: a Python program sets them through
//! `os.environ` after the import. The pool's are read whenever a thread takes a slot, the adapter's when the
//! device is opened.
//!
//! | variable | values | meaning |
//! |---|---|---|
//! | `MPS_STREAM_POOL_SIZE` | 2 to 1024, default 32 | slots of the pool, the main thread's included |
//! | `MPS_POOL_SHARE` | 0, 1 | 1: threads beyond the pool share streams |
//! | `MPS_POOL_TIMEOUT_MS` | milliseconds | waits so long for a slot, then fails |
//! | `MPS_POOL_BACKPRESSURE` | 0, 1 | 1: waits for a slot without a limit |
//! | `MPS_STREAM_POOL_WAIT_TIMEOUT_MS` | -1, 0, milliseconds | -1 waits without a limit, 0 fails at once |
//! | `RIVULET_ADAPTER` | auto, host, a name or number | which adapter to open; auto: a card, else a GPU beside the CPU, else the host's |
//! | `RIVULET_VALIDATION` | 0, 1 | 1: Vulkan's validation layer looks on |
//! | `RIVULET_MIRROR` | 0, 1 | 1: memory that CPU and device share is used as if it were not, for tests |
//! | `RIVULET_CACHE_DIR` | a folder, or empty | where compiled kernels are kept; empty: nowhere. Default: `rivulet` in `XDG_CACHE_HOME` or `~/.cache` |
//! | `RIVULET_QUEUES` | 1 to the adapter's count | hardware queues to use |
//! | `RIVULET_METAL_ENCODERS` | 1 to 64 | threads that may encode for Metal at the same time |
//!
//! Where several of the pool's modes are set, the one that stands higher in the table wins; a bad value is an
//! error even where another variable wins.

use rivulet_hal::sync::Arc;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

/// A setting with a value that it cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{variable}={value:?} is not a valid setting: allowed are {allowed}")]
pub struct SettingError {
    /// The environment variable.
    pub variable: &'static str,
    /// Its value.
    pub value: String,
    /// What it may be.
    pub allowed: String,
}

/// Where settings come from. A bridge installs one that reads the interpreter's view of the environment under
/// the interpreter's lock, since `getenv` beside `putenv` is a data race.
pub trait EnvSource: Send + Sync {
    /// Value of a variable, `None` where it is not set. Called from any thread, no engine lock held.
    fn get(&self, name: &str) -> Option<String>;
}

/// The environment of the process, for programs without an interpreter.
#[derive(Clone, Copy, Debug, Default)]
pub struct ProcessEnv;

impl EnvSource for ProcessEnv {
    #[allow(clippy::disallowed_methods, reason = "the one place that reads settings")]
    fn get(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }
}

/// Fixed settings, for tests and for programs that configure a device without the environment.
impl EnvSource for std::collections::HashMap<String, String> {
    fn get(&self, name: &str) -> Option<String> {
        Self::get(self, name).cloned()
    }
}

static INSTALLED: OnceLock<Arc<dyn EnvSource>> = OnceLock::new();

/// Installs the source of settings for [`crate::Device::global`]. The first call decides: false where one was
/// installed before.
pub fn install_env(source: Arc<dyn EnvSource>) -> bool {
    INSTALLED.set(source).is_ok()
}

/// The installed source, or the process's environment.
pub fn env() -> Arc<dyn EnvSource> {
    INSTALLED.get().cloned().unwrap_or_else(|| Arc::new(ProcessEnv))
}

/// True where the user has fixed how many threads a CPU kernel uses (`OMP_NUM_THREADS`, `MKL_NUM_THREADS`).
pub fn fixes_kernel_threads(env: &dyn EnvSource) -> bool {
    ["OMP_NUM_THREADS", "MKL_NUM_THREADS"].iter().any(|name| env.get(name).is_some())
}

/// What a thread does that finds every slot taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolMode {
    /// Fails at once.
    Raise,
    /// Uses another thread's stream.
    Share,
    /// Waits.
    Wait {
        /// For at most so long; `None` is for ever.
        timeout: Option<Duration>,
        /// The variable that asked for it.
        variable: &'static str,
    },
}

impl PoolMode {
    /// True where an idle thread's slot may be given to another thread.
    pub const fn may_take_idle(self) -> bool {
        !matches!(self, Self::Raise)
    }
}

/// Settings of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Slots, the main thread's included; `None` where nothing is set.
    pub size: Option<usize>,
    /// What to do without a slot.
    pub mode: PoolMode,
}

/// Name of the variable that sets the pool's size.
pub const POOL_SIZE: &str = "MPS_STREAM_POOL_SIZE";
/// Name of the variable that lets threads share streams.
pub const POOL_SHARE: &str = "MPS_POOL_SHARE";
/// Name of the variable that bounds the wait for a slot.
pub const POOL_TIMEOUT: &str = "MPS_POOL_TIMEOUT_MS";
/// Name of the variable that makes threads wait for a slot.
pub const POOL_BACKPRESSURE: &str = "MPS_POOL_BACKPRESSURE";
/// Name of the variable that does both, in the reference project's spelling.
pub const POOL_WAIT_TIMEOUT: &str = "MPS_STREAM_POOL_WAIT_TIMEOUT_MS";
/// Name of the variable that picks the adapter.
pub const ADAPTER: &str = "RIVULET_ADAPTER";
/// Name of the variable that sets the number of hardware queues.
pub const QUEUES: &str = "RIVULET_QUEUES";
/// Name of the variable that loads Vulkan's validation layer.
pub const VALIDATION: &str = "RIVULET_VALIDATION";
/// Name of the variable that bounds the threads which encode for Metal at the same time.
pub const METAL_ENCODERS: &str = "RIVULET_METAL_ENCODERS";
/// Name of the variable that hides the device's memory from the CPU.
pub const MIRROR: &str = "RIVULET_MIRROR";
/// Name of the variable that says where compiled kernels are kept.
pub const CACHE_DIR: &str = "RIVULET_CACHE_DIR";
/// More hardware queues than any adapter has.
const MOST_QUEUES: i64 = 1024;
/// More threads than ever encode at the same time.
const MOST_ENCODERS: i64 = 64;

/// Every variable, for reports.
pub const VARIABLES: [&str; 11] = [
    POOL_SIZE,
    POOL_SHARE,
    POOL_TIMEOUT,
    POOL_BACKPRESSURE,
    POOL_WAIT_TIMEOUT,
    ADAPTER,
    QUEUES,
    METAL_ENCODERS,
    VALIDATION,
    MIRROR,
    CACHE_DIR,
];

/// Slots of a pool where nothing is set.
pub const DEFAULT_POOL_SIZE: usize = 32;
/// Fewest slots: the main thread's and one worker's.
pub const MIN_POOL_SIZE: usize = 2;
/// Most slots.
pub const MAX_POOL_SIZE: usize = 1024;
/// Longest timeout in milliseconds.
pub const MAX_TIMEOUT_MS: i64 = i32::MAX as i64;

impl PoolSettings {
    /// Reads all variables of the pool.
    ///
    /// # Errors
    /// [`SettingError`] for the first bad value, in the order of the table above.
    ///
    /// ```
    /// use rivulet::config::{PoolMode, PoolSettings};
    /// use std::collections::HashMap;
    ///
    /// let set = |name: &str, value: &str| HashMap::from([(name.to_owned(), value.to_owned())]);
    /// let settings = PoolSettings::read(&set("MPS_POOL_SHARE", "1"))?;
    /// assert_eq!((settings.size, settings.mode), (None, PoolMode::Share));
    /// let error = PoolSettings::read(&set("MPS_STREAM_POOL_SIZE", "1")).unwrap_err();
    /// assert!(error.to_string().contains("2 to 1024"));
    /// # Ok::<(), rivulet::config::SettingError>(())
    /// ```
    pub fn read(env: &dyn EnvSource) -> Result<Self, SettingError> {
        let size = integer(env, POOL_SIZE, MIN_POOL_SIZE as i64..=MAX_POOL_SIZE as i64, "whole numbers")?
            .and_then(|size| usize::try_from(size).ok());
        let share = flag(env, POOL_SHARE)?;
        let timeout = integer(env, POOL_TIMEOUT, 0..=MAX_TIMEOUT_MS, "milliseconds")?;
        let backpressure = flag(env, POOL_BACKPRESSURE)?;
        let wait = integer(
            env,
            POOL_WAIT_TIMEOUT,
            -1..=MAX_TIMEOUT_MS,
            "milliseconds, where -1 is no limit and 0 fails at once,",
        )?;
        let mode = if share {
            PoolMode::Share
        } else if let Some(timeout) = timeout {
            Self::bounded(timeout, POOL_TIMEOUT)
        } else if backpressure {
            PoolMode::Wait { timeout: None, variable: POOL_BACKPRESSURE }
        } else if let Some(wait) = wait {
            Self::bounded(wait, POOL_WAIT_TIMEOUT)
        } else {
            PoolMode::Raise
        };
        Ok(Self { size, mode })
    }

    fn bounded(milliseconds: i64, variable: &'static str) -> PoolMode {
        match u64::try_from(milliseconds) {
            Ok(0) => PoolMode::Raise,
            Ok(wait) => PoolMode::Wait { timeout: Some(Duration::from_millis(wait)), variable },
            Err(_) => PoolMode::Wait { timeout: None, variable },
        }
    }
}

/// Which adapter to open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdapterChoice {
    /// The best one of this machine.
    Auto,
    /// The CPU's memory.
    Host,
    /// A number in the list of [`rivulet_hal::adapters`], or part of a name in it, case ignored.
    Named(String),
}

/// Reads `RIVULET_ADAPTER`.
///
/// # Errors
/// [`SettingError`]. Whether there is an adapter of a given name shows when it is opened. The simulated adapter of the
/// tests has none: it is opened through [`crate::Device::with`].
pub fn adapter(env: &dyn EnvSource) -> Result<AdapterChoice, SettingError> {
    match set(env, ADAPTER) {
        None => Ok(AdapterChoice::Auto),
        Some(value) => match value.as_str() {
            "auto" => Ok(AdapterChoice::Auto),
            "host" => Ok(AdapterChoice::Host),
            _ => Ok(AdapterChoice::Named(value)),
        },
    }
}

/// Reads `RIVULET_MIRROR`.
///
/// # Errors
/// [`SettingError`].
pub fn mirror(env: &dyn EnvSource) -> Result<bool, SettingError> {
    flag(env, MIRROR)
}

/// Where compiled kernels are kept: `RIVULET_CACHE_DIR`, else `rivulet` in `XDG_CACHE_HOME` or in `~/.cache`. `None` where
/// the variable is set and empty, and where there is no such place.
pub fn cache_dir(env: &dyn EnvSource) -> Option<PathBuf> {
    if let Some(given) = env.get(CACHE_DIR) {
        return (!given.is_empty()).then(|| PathBuf::from(given));
    }
    // The XDG specification has relative paths ignored.
    let absolute = |name| set(env, name).map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    caches.map(|caches| caches.join("rivulet"))
}

/// Reads `RIVULET_QUEUES` where the adapter is not known yet.
///
/// # Errors
/// [`SettingError`].
pub fn wanted_queues(env: &dyn EnvSource) -> Result<Option<usize>, SettingError> {
    let queues = integer(env, QUEUES, 1..=MOST_QUEUES, "the queues of an adapter,")?;
    Ok(queues.and_then(|queues| usize::try_from(queues).ok()))
}

/// Reads `RIVULET_METAL_ENCODERS`; as many as there are queues where it is not set.
///
/// # Errors
/// [`SettingError`].
pub fn metal_encoders(env: &dyn EnvSource) -> Result<Option<usize>, SettingError> {
    let threads = integer(env, METAL_ENCODERS, 1..=MOST_ENCODERS, "whole numbers")?;
    Ok(threads.and_then(|threads| usize::try_from(threads).ok()))
}

/// Reads `RIVULET_VALIDATION`: whether Vulkan's validation layer looks on.
///
/// # Errors
/// [`SettingError`].
pub fn validation(env: &dyn EnvSource) -> Result<bool, SettingError> {
    flag(env, VALIDATION)
}

/// Reads `RIVULET_QUEUES` for an adapter that offers `most` queues; all of them where it is not set.
///
/// # Errors
/// [`SettingError`].
pub fn queues(env: &dyn EnvSource, most: usize) -> Result<usize, SettingError> {
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let queues = integer(env, QUEUES, 1..=limit, "the queues of this adapter,")?;
    Ok(queues.and_then(|queues| usize::try_from(queues).ok()).unwrap_or(most))
}

/// An empty value counts as not set: that is how shells and `os.environ` users switch a variable off.
fn set(env: &dyn EnvSource, name: &str) -> Option<String> {
    env.get(name).filter(|value| !value.is_empty())
}

fn integer(
    env: &dyn EnvSource,
    variable: &'static str,
    range: RangeInclusive<i64>,
    what: &str,
) -> Result<Option<i64>, SettingError> {
    let Some(value) = set(env, variable) else { return Ok(None) };
    // Rust accepts a leading plus sign, which no other reader of these variables does.
    let number = if value.starts_with('+') { None } else { value.parse::<i64>().ok() };
    match number {
        Some(number) if range.contains(&number) => Ok(Some(number)),
        _ => {
            let allowed = format!("{what} {} to {}", range.start(), range.end());
            Err(SettingError { variable, value, allowed })
        }
    }
}

fn flag(env: &dyn EnvSource, variable: &'static str) -> Result<bool, SettingError> {
    match set(env, variable) {
        None => Ok(false),
        Some(value) => match value.as_str() {
            "1" => Ok(true),
            "0" => Ok(false),
            _ => Err(SettingError { variable, value, allowed: "0 and 1".to_owned() }),
        },
    }
}

#[cfg(test)]
#[cfg(not(loom))]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn env(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn mode(pairs: &[(&str, &str)]) -> PoolMode {
        PoolSettings::read(&env(pairs)).unwrap().mode
    }

    #[test]
    fn every_spelling_gives_its_mode() {
        let wait = |timeout: Option<u64>, variable| PoolMode::Wait {
            timeout: timeout.map(Duration::from_millis),
            variable,
        };
        assert_eq!(mode(&[]), PoolMode::Raise);
        assert_eq!(mode(&[(POOL_SHARE, "1")]), PoolMode::Share);
        assert_eq!(mode(&[(POOL_SHARE, "0")]), PoolMode::Raise);
        assert_eq!(mode(&[(POOL_SHARE, "")]), PoolMode::Raise);
        assert_eq!(mode(&[(POOL_TIMEOUT, "0")]), PoolMode::Raise);
        assert_eq!(mode(&[(POOL_TIMEOUT, "250")]), wait(Some(250), POOL_TIMEOUT));
        assert_eq!(mode(&[(POOL_BACKPRESSURE, "1")]), wait(None, POOL_BACKPRESSURE));
        assert_eq!(mode(&[(POOL_WAIT_TIMEOUT, "-1")]), wait(None, POOL_WAIT_TIMEOUT));
        assert_eq!(mode(&[(POOL_WAIT_TIMEOUT, "0")]), PoolMode::Raise);
        assert_eq!(mode(&[(POOL_WAIT_TIMEOUT, "7")]), wait(Some(7), POOL_WAIT_TIMEOUT));
    }

    #[test]
    fn the_higher_row_wins() {
        let all =
            [(POOL_SHARE, "1"), (POOL_TIMEOUT, "5"), (POOL_BACKPRESSURE, "1"), (POOL_WAIT_TIMEOUT, "9")];
        let variables = [None, Some(POOL_TIMEOUT), Some(POOL_BACKPRESSURE), Some(POOL_WAIT_TIMEOUT)];
        for (skipped, expected) in variables.into_iter().enumerate() {
            let variable = match mode(&all[skipped..]) {
                PoolMode::Wait { variable, .. } => Some(variable),
                other => {
                    assert_eq!(other, PoolMode::Share);
                    None
                }
            };
            assert_eq!(variable, expected);
        }
    }

    #[test]
    fn bad_values_are_named_with_what_is_allowed() {
        let bad = [
            (
                POOL_SIZE,
                &["0", "1", "1025", "-3", "abc", "3.5", "1e2", "+8", " 32", "99999999999999999999"][..],
            ),
            (POOL_SHARE, &["yes", "2", "true"]),
            (POOL_TIMEOUT, &["-1", "abc", "1.5", "2147483648"]),
            (POOL_BACKPRESSURE, &["on", "-1"]),
            (POOL_WAIT_TIMEOUT, &["-2", "forever"]),
        ];
        for (variable, values) in bad {
            for value in values {
                // A variable of higher precedence does not hide the bad value.
                let source = env(&[(POOL_SHARE, "1"), (variable, value)]);
                let error = PoolSettings::read(&source).unwrap_err();
                assert_eq!((error.variable, error.value.as_str()), (variable, *value));
                let text = error.to_string();
                assert!(
                    text.contains(variable) && text.contains(value) && text.contains("allowed"),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn kernels_are_kept_where_the_settings_say() {
        let dir = |pairs: &[(&str, &str)]| cache_dir(&env(pairs)).map(|path| path.display().to_string());
        let home = ("HOME", "/home/me");
        assert_eq!(dir(&[home]).as_deref(), Some("/home/me/.cache/rivulet"));
        assert_eq!(dir(&[home, ("XDG_CACHE_HOME", "/tmp/c")]).as_deref(), Some("/tmp/c/rivulet"));
        assert_eq!(dir(&[home, ("XDG_CACHE_HOME", "c")]).as_deref(), Some("/home/me/.cache/rivulet"));
        assert_eq!(dir(&[home, (CACHE_DIR, "/here")]).as_deref(), Some("/here"));
        assert_eq!(dir(&[home, (CACHE_DIR, "")]), None);
        assert_eq!(dir(&[]), None);
    }

    #[test]
    fn adapter_and_queues() {
        assert_eq!(adapter(&env(&[])), Ok(AdapterChoice::Auto));
        assert_eq!(adapter(&env(&[(ADAPTER, "host")])), Ok(AdapterChoice::Host));
        assert_eq!(adapter(&env(&[(ADAPTER, "llvmpipe")])), Ok(AdapterChoice::Named("llvmpipe".to_owned())));
        assert_eq!(validation(&env(&[(VALIDATION, "1")])), Ok(true));
        assert!(validation(&env(&[(VALIDATION, "yes")])).is_err());
        assert_eq!((mirror(&env(&[])), mirror(&env(&[(MIRROR, "1")]))), (Ok(false), Ok(true)));
        assert_eq!(wanted_queues(&env(&[])), Ok(None));
        assert_eq!(wanted_queues(&env(&[(QUEUES, "4")])), Ok(Some(4)));
        assert!(wanted_queues(&env(&[(QUEUES, "0")])).is_err());
        assert_eq!(metal_encoders(&env(&[])), Ok(None));
        assert_eq!(metal_encoders(&env(&[(METAL_ENCODERS, "1")])), Ok(Some(1)));
        assert!(metal_encoders(&env(&[(METAL_ENCODERS, "0")])).is_err());
        assert_eq!(queues(&env(&[]), 3), Ok(3));
        assert_eq!(queues(&env(&[(QUEUES, "2")]), 3), Ok(2));
        assert!(queues(&env(&[(QUEUES, "4")]), 3).is_err());
        assert!(queues(&env(&[(QUEUES, "0")]), 3).is_err());
    }
}
