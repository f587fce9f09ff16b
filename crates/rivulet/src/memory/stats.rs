//! Numbers about memory, true to the byte.

use rivulet_hal::sync::atomic::{AtomicU64, Ordering};
use std::fmt;

/// The allocator's books at one moment. Sizes in bytes. Exact where no other thread allocates or frees meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryStats {
    /// Bytes asked for by live blocks, adopted ones included.
    pub allocated: u64,
    /// Bytes that the driver has given and has not got back, and adopted ones.
    pub reserved: u64,
    /// The part of both that is adopted.
    pub adopted: u64,
    /// Highest `allocated` since start or reset.
    pub peak_allocated: u64,
    /// Highest `reserved` since start or reset.
    pub peak_reserved: u64,
    /// Blocks handed out since start or reset.
    pub alloc_count: u64,
    /// Blocks freed since start or reset.
    pub free_count: u64,
    /// Bytes asked for since start or reset.
    pub alloc_bytes: u64,
    /// Bytes freed since start or reset.
    pub free_bytes: u64,
    /// Live blocks.
    pub active_blocks: u64,
    /// Requests that failed for lack of memory since start or reset.
    pub ooms: u64,
    /// Times the caches were emptied to serve a request, since start or reset.
    pub retries: u64,
    /// Allocations of the driver that are held.
    pub segments: u64,
    /// Most bytes that may be reserved; 0 where there is no limit.
    pub limit: u64,
    /// Bytes of the device.
    pub device_total: u64,
}

/// A counter with its highest value.
#[derive(Debug)]
pub(super) struct Gauge {
    now: AtomicU64,
    peak: AtomicU64,
}

impl Gauge {
    pub(super) fn new() -> Self {
        Self { now: AtomicU64::new(0), peak: AtomicU64::new(0) }
    }

    pub(super) fn get(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(super) fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn add(&self, bytes: u64) {
        let now = self.now.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.note(now);
    }

    fn note(&self, now: u64) {
        if now > self.peak.load(Ordering::Relaxed) {
            // A compare-exchange loop, because loom's atomics have no fetch_max.
            let mut peak = self.peak.load(Ordering::Relaxed);
            while now > peak {
                match self.peak.compare_exchange_weak(peak, now, Ordering::Relaxed, Ordering::Relaxed) {
                    Ok(_) => return,
                    Err(other) => peak = other,
                }
            }
        }
    }

    /// Adds where the sum stays within `limit`.
    pub(super) fn try_add(&self, bytes: u64, limit: u64) -> bool {
        let mut now = self.get();
        loop {
            let Some(sum) = now.checked_add(bytes).filter(|&sum| sum <= limit) else { return false };
            match self.now.compare_exchange_weak(now, sum, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => {
                    self.note(sum);
                    return true;
                }
                Err(other) => now = other,
            }
        }
    }

    #[inline]
    pub(super) fn sub(&self, bytes: u64) {
        self.now.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(super) fn reset_peak(&self) {
        self.peak.store(self.get(), Ordering::Relaxed);
    }
}

/// Sums over all streams.
#[derive(Debug)]
pub(super) struct Books {
    pub(super) allocated: Gauge,
    pub(super) reserved: Gauge,
}

/// What one stream's cache counts under its lock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) allocs: u64,
    pub(super) frees: u64,
    pub(super) alloc_bytes: u64,
    pub(super) free_bytes: u64,
    pub(super) live: u64,
    pub(super) adopted: u64,
}

/// Bytes in the unit people use, with the exact number.
pub(super) struct Size(pub(super) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
        let Self(bytes) = *self;
        if bytes < 1024 {
            return write!(f, "{bytes} bytes");
        }
        let unit = (bytes.ilog2() / 10) as usize;
        let value = bytes as f64 / (1_u64 << (10 * unit)) as f64;
        write!(f, "{value:.2} {} ({bytes} bytes)", UNITS[unit - 1])
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        assert_eq!(Size(17).to_string(), "17 bytes");
        assert_eq!(Size(1536).to_string(), "1.50 KiB (1536 bytes)");
        assert_eq!(Size(u64::MAX).to_string(), "16.00 EiB (18446744073709551615 bytes)");
    }

    #[test]
    fn a_gauge_keeps_its_peak_and_its_limit() {
        let gauge = Gauge::new();
        gauge.add(10);
        assert!(gauge.try_add(5, 15) && !gauge.try_add(1, 15) && !gauge.try_add(u64::MAX, u64::MAX));
        gauge.sub(12);
        assert_eq!((gauge.get(), gauge.peak()), (3, 15));
        gauge.reset_peak();
        assert_eq!(gauge.peak(), 3);
    }
}
