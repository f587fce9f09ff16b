//! What the operating system knows of the calling thread and process.

#[cfg(not(loom))]
use crate::sync::atomic::{AtomicU32, Ordering};

/// True on the thread that runs `main`. In a forked child this is the thread that called fork.
#[cfg(target_os = "linux")]
pub fn is_main_thread() -> bool {
    // SAFETY: both calls only ask the kernel for a number; they take no pointer and cannot fail.
    unsafe { libc::gettid() == libc::getpid() }
}

/// True on the thread that runs `main`. In a forked child this is the thread that called fork.
#[cfg(target_vendor = "apple")]
pub fn is_main_thread() -> bool {
    // SAFETY: takes no argument and cannot fail.
    unsafe { libc::pthread_main_np() == 1 }
}

/// True on the thread that runs `main`; on this system nothing tells, so no thread is.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub fn is_main_thread() -> bool {
    false
}

/// The kernel's number of the calling thread, as debuggers and `top -H` show it.
#[cfg(target_os = "linux")]
pub fn id() -> u64 {
    // SAFETY: takes no argument and cannot fail.
    let id = unsafe { libc::gettid() };
    u64::try_from(id).unwrap_or(0)
}

/// The kernel's number of the calling thread, as debuggers show it.
#[cfg(target_vendor = "apple")]
pub fn id() -> u64 {
    let mut id = 0;
    // SAFETY: thread 0 means the calling one, and `id` is a valid place for the answer.
    unsafe { libc::pthread_threadid_np(0, &raw mut id) };
    id
}

/// A number for the calling thread; 0 on this system.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub fn id() -> u64 {
    0
}

/// Name of the calling thread as the kernel knows it (on Linux its first 15 bytes); empty where there is none.
#[cfg(any(target_os = "linux", target_vendor = "apple"))]
pub fn name() -> String {
    let mut text = [0_u8; 64];
    // SAFETY: the buffer is valid for the length given, the call ends the text with a NUL inside it, and
    // pthread_self is a live thread.
    let failed =
        unsafe { libc::pthread_getname_np(libc::pthread_self(), text.as_mut_ptr().cast(), text.len()) };
    if failed != 0 {
        return String::new();
    }
    std::ffi::CStr::from_bytes_until_nul(&text)
        .map_or_else(|_| String::new(), |name| name.to_string_lossy().into())
}

/// Name of the calling thread; empty on this system.
#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
pub fn name() -> String {
    String::new()
}

/// Raised in the child by every fork; a model forks no process.
#[cfg(not(loom))]
static FORKS: AtomicU32 = AtomicU32::new(0);

/// How many forks lie between this process and the first caller of [`watch_forks`]. A device remembers the value
/// of its opening and refuses to work under another one.
#[cfg(not(loom))]
#[inline]
pub fn fork_generation() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// How many forks lie between this process and the first caller of [`watch_forks`]; models do not fork.
#[cfg(loom)]
pub fn fork_generation() -> u32 {
    0
}

/// Counts forks from now on, for [`fork_generation`]. Does nothing after its first call. The count is all that
/// runs in the child: no lock is touched and nothing is freed.
#[cfg(all(unix, not(loom)))]
pub fn watch_forks() {
    extern "C" fn in_child() {
        // Async-signal-safe: one store. The child has one thread, so nothing races with it.
        FORKS.fetch_add(1, Ordering::Relaxed);
    }
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler is a plain function that lives as long as this library, which registers
        // thread-local destructors and so is never unloaded.
        unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
    });
}

/// Counts forks from now on; nothing to count on this system.
#[cfg(not(all(unix, not(loom))))]
pub fn watch_forks() {}

#[cfg(all(test, not(loom)))]
mod tests {
    #[test]
    fn a_spawned_thread_is_not_the_main_one() {
        let other = std::thread::Builder::new().name("worker-7".into());
        let seen =
            other.spawn(|| (super::is_main_thread(), super::id(), super::name())).unwrap().join().unwrap();
        assert!(!seen.0);
        assert_ne!(seen.1, super::id());
        assert_eq!(seen.2, "worker-7");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn fork_raises_the_generation_in_the_child_only() {
        super::watch_forks();
        let before = super::fork_generation();
        // SAFETY: the child only reads one atomic and calls _exit, both allowed after a fork of a process
        // with several threads.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let code = i32::from(super::fork_generation() != before + 1);
            // SAFETY: ends the child without running any destructor.
            unsafe { libc::_exit(code) };
        }
        let mut status = 0;
        // SAFETY: `child` is our own child and `status` a valid place.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        assert_eq!(super::fork_generation(), before);
    }
}
