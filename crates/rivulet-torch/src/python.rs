//! What the runtime must know of a Python interpreter: its lock, its signals, its environment, its end.
//!
//! The interpreter's C functions are looked up at run time. In a process without Python nothing here does anything.

use crate::turns::Turns;
use rivulet::blocking::{Interrupted, WaitHooks};
use rivulet::config::EnvSource;
use rivulet_hal::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

type Object = *mut c_void;

/// The stable-ABI functions used, as of Python 3.10.
struct Api {
    gil_check: unsafe extern "C" fn() -> c_int,
    save_thread: unsafe extern "C" fn() -> Object,
    restore_thread: unsafe extern "C" fn(Object),
    ensure: unsafe extern "C" fn() -> c_int,
    release: unsafe extern "C" fn(c_int),
    this_thread_state: unsafe extern "C" fn() -> Object,
    is_initialized: unsafe extern "C" fn() -> c_int,
    check_signals: unsafe extern "C" fn() -> c_int,
    error_occurred: unsafe extern "C" fn() -> Object,
    error_clear: unsafe extern "C" fn(),
    import: unsafe extern "C" fn(*const c_char) -> Object,
    get_attr: unsafe extern "C" fn(Object, *const c_char) -> Object,
    get_item: unsafe extern "C" fn(Object, *const c_char) -> Object,
    utf8: unsafe extern "C" fn(Object, *mut isize) -> *const c_char,
    decref: unsafe extern "C" fn(Object),
}

/// Looks a symbol up among everything that the process has loaded.
fn symbol(name: &CStr) -> Option<*mut c_void> {
    // SAFETY: the name is a C string, and RTLD_DEFAULT needs no handle.
    let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    (!address.is_null()).then_some(address)
}

macro_rules! load {
    ($name:literal) => {
        // SAFETY: the field's type is the documented signature of this stable-ABI function.
        unsafe { std::mem::transmute::<*mut c_void, _>(symbol($name)?) }
    };
}

#[expect(clippy::missing_transmute_annotations, reason = "the field that is set gives the type")]
fn api() -> Option<&'static Api> {
    static API: OnceLock<Option<Api>> = OnceLock::new();
    API.get_or_init(|| {
        Some(Api {
            gil_check: load!(c"PyGILState_Check"),
            save_thread: load!(c"PyEval_SaveThread"),
            restore_thread: load!(c"PyEval_RestoreThread"),
            ensure: load!(c"PyGILState_Ensure"),
            release: load!(c"PyGILState_Release"),
            this_thread_state: load!(c"PyGILState_GetThisThreadState"),
            is_initialized: load!(c"Py_IsInitialized"),
            check_signals: load!(c"PyErr_CheckSignals"),
            error_occurred: load!(c"PyErr_Occurred"),
            error_clear: load!(c"PyErr_Clear"),
            import: load!(c"PyImport_ImportModule"),
            get_attr: load!(c"PyObject_GetAttrString"),
            get_item: load!(c"PyMapping_GetItemString"),
            utf8: load!(c"PyUnicode_AsUTF8AndSize"),
            decref: load!(c"Py_DecRef"),
        })
    })
    .as_ref()
    // SAFETY: Py_IsInitialized may be called at any time.
    .filter(|api| unsafe { (api.is_initialized)() } != 0)
}

/// Set by Python's atexit; see [`shutdown`].
static EXITING: AtomicBool = AtomicBool::new(false);
/// Threads that have come to stay.
static STAYING: AtomicUsize = AtomicUsize::new(0);
/// Threads between the end of a wait and holding the GIL again.
static RETURNING: AtomicUsize = AtomicUsize::new(0);

/// Note: threads that outlive the interpreter
///
/// Once Python finalises, a thread that asks for the GIL is ended by `pthread_exit`, which unwinds through frames
/// that do not allow it and aborts the process. So after [`shutdown`] has begun, a thread other than the main one
/// never leaves the runtime again: it sleeps here, without the GIL, until the process ends.
#[inline]
pub(crate) fn stay_if_exiting() {
    // SeqCst pairs with `shutdown`: either it sees this thread in RETURNING or this thread sees the flag.
    if EXITING.load(Ordering::SeqCst) {
        stay();
    }
}

#[cold]
fn stay() {
    if rivulet_hal::thread::is_main_thread() {
        return;
    }
    // The interpreter needs its lock to finish.
    let _never_retaken = release_gil();
    STAYING.fetch_add(1, Ordering::Relaxed);
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

/// Looks in a row that must find everything calm before the interpreter goes on to its end, and the time between two.
const CALM_LOOKS: u32 = 4;
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// A sleep that ends later than this, or a GIL that takes longer to get, says that others still run.
const PROMPT: Duration = Duration::from_millis(2);
/// The interpreter goes on after this in any case.
const PATIENCE: Duration = Duration::from_secs(1);

/// Called once by Python's atexit on the main thread, GIL held: keeps other threads from coming back to an
/// interpreter that is going away. A thread that is outside an op at this moment needs the GIL and some time of a core
/// to come to its next op, where it stays; so this waits, the GIL given up, until nobody wants either.
pub(crate) fn shutdown() {
    EXITING.store(true, Ordering::SeqCst);
    let start = Instant::now();
    let mut calm = 0;
    while calm < CALM_LOOKS && start.elapsed() < PATIENCE {
        let staying = STAYING.load(Ordering::Relaxed);
        let without_gil = release_gil();
        let before = Instant::now();
        std::thread::sleep(LOOK_EVERY);
        retake_gil(without_gil);
        let prompt = before.elapsed() < LOOK_EVERY + PROMPT;
        let nobody_came = staying == STAYING.load(Ordering::Relaxed) && RETURNING.load(Ordering::SeqCst) == 0;
        calm = if prompt && nobody_came { calm + 1 } else { 0 };
    }
}

/// Of the threads that come back from joined calls.
static TURNS: Turns = Turns::new(Duration::from_micros(60));

/// Lets go of the GIL where this thread holds it; the saved thread state, or 0.
fn release_gil() -> usize {
    let state = match api() {
        // SAFETY: SaveThread is called only where this thread holds the GIL.
        Some(api) if unsafe { (api.gil_check)() } != 0 => unsafe { (api.save_thread)() as usize },
        _ => 0,
    };
    TURNS.pass();
    state
}

/// Waits until it is worthwhile for a thread that let go of the GIL to ask for it again, among others. A quarter of the
/// cores may wait awake: more would take them from who has the GIL.
pub(crate) fn await_turn() {
    TURNS.wait(awake());
}

/// Waits before each wake-up of a thread that comes to [`await_turn`], as long as enough are there. None where threads take
/// no turns.
pub(crate) fn turns_taken() -> Option<impl FnMut(usize)> {
    let mut pace = TURNS.pace(awake())?;
    Some(move |told| pace.admit(told))
}

fn awake() -> u32 {
    u32::try_from(rivulet::blocking::cores() / 4).unwrap_or(u32::MAX)
}

fn retake_gil(state: usize) {
    if state == 0 {
        return;
    }
    if let Some(api) = api() {
        // SAFETY: `state` came from SaveThread on this thread and was not restored since.
        unsafe { (api.restore_thread)(state as Object) };
    }
}

/// How the runtime's waits treat the interpreter.
pub(crate) struct Hooks;

impl WaitHooks for Hooks {
    fn enter(&self) -> usize {
        release_gil()
    }

    fn poll(&self) -> Result<(), Interrupted> {
        // Handlers run on the main thread alone; others need not take the GIL to learn that.
        if !rivulet_hal::thread::is_main_thread() {
            return Ok(());
        }
        let Some(api) = api() else { return Ok(()) };
        // SAFETY: Ensure and Release are paired; CheckSignals is called with the GIL held.
        unsafe {
            let state = (api.ensure)();
            let interrupted = (api.check_signals)() != 0;
            (api.release)(state);
            if interrupted { Err(Interrupted) } else { Ok(()) }
        }
    }

    fn leave(&self, token: usize) {
        if token == 0 {
            return;
        }
        RETURNING.fetch_add(1, Ordering::SeqCst);
        if EXITING.load(Ordering::SeqCst) && !rivulet_hal::thread::is_main_thread() {
            RETURNING.fetch_sub(1, Ordering::SeqCst);
            stay();
        }
        retake_gil(token);
        RETURNING.fetch_sub(1, Ordering::SeqCst);
    }
}

/// `os.environ`, read under the GIL: Python programs set variables after start, and `getenv` beside their `putenv`
/// is a data race.
pub(crate) struct Environ;

impl EnvSource for Environ {
    fn get(&self, name: &str) -> Option<String> {
        let Some(api) = api() else { return rivulet::config::ProcessEnv.get(name) };
        let name = std::ffi::CString::new(name).ok()?;
        // SAFETY: Ensure and Release are paired, everything between runs with the GIL held, each new reference is
        // dropped once, and an error set here is cleared here. An error that the caller had set is not disturbed,
        // because none of these calls is made while one is set.
        unsafe {
            let state = (api.ensure)();
            let value = if (api.error_occurred)().is_null() { environ_item(api, &name) } else { None };
            (api.release)(state);
            value
        }
    }
}

/// # Safety
/// - The GIL is held and no Python error is set.
unsafe fn environ_item(api: &Api, name: &CStr) -> Option<String> {
    // SAFETY: as above; each object is checked before use.
    unsafe {
        let os = (api.import)(c"os".as_ptr());
        let environ = if os.is_null() { os } else { (api.get_attr)(os, c"environ".as_ptr()) };
        let item = if environ.is_null() { environ } else { (api.get_item)(environ, name.as_ptr()) };
        let mut text = None;
        if !item.is_null() {
            let mut length = 0isize;
            let bytes = (api.utf8)(item, &mut length);
            if !bytes.is_null() {
                let bytes = std::slice::from_raw_parts(bytes.cast::<u8>(), length.max(0) as usize);
                text = Some(String::from_utf8_lossy(bytes).into_owned());
            }
        }
        (api.error_clear)();
        for object in [item, environ, os] {
            if !object.is_null() {
                (api.decref)(object);
            }
        }
        text
    }
}

/// True on a thread that Python knows. Needs no GIL.
pub(crate) fn is_python_thread() -> bool {
    // SAFETY: the function may be called without the GIL; it reads a thread-specific slot.
    api().is_some_and(|api| !unsafe { (api.this_thread_state)() }.is_null())
}
