//! Counts and times of a queue.

use std::collections::BTreeMap;
use std::time::Duration;

/// Buckets of one power of two.
const FINE: u32 = 4;
const BUCKETS: usize = (64 - FINE as usize + 1) << FINE;

/// Times in buckets whose width is a sixteenth of their power of two, as in HDR histograms.
#[derive(Clone, Debug)]
pub(super) struct Times {
    counts: Box<[u64]>,
    total: u64,
    longest: u64,
}

impl Times {
    pub(super) fn new() -> Self {
        Self { counts: vec![0; BUCKETS].into_boxed_slice(), total: 0, longest: 0 }
    }

    pub(super) fn add(&mut self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(nanoseconds)] += 1;
        self.total += 1;
        self.longest = self.longest.max(nanoseconds);
    }

    /// Upper end of the bucket that holds the given share of all times, never above the longest.
    fn quantile(&self, share: f64) -> Duration {
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|&count| {
            seen += count;
            seen >= rank
        });
        Duration::from_nanos(found.map_or(0, |bucket| upper_end(bucket).min(self.longest)))
    }

    pub(super) fn summary(&self) -> Summary {
        Summary {
            count: self.total,
            p50: self.quantile(0.5),
            p90: self.quantile(0.9),
            p99: self.quantile(0.99),
            max: Duration::from_nanos(self.longest),
        }
    }
}

/// Values below 2^(FINE + 1) have a bucket each; above, the leading bit and the FINE bits after it choose.
fn bucket(value: u64) -> usize {
    let shift = (63 - (value | 1).leading_zeros()).saturating_sub(FINE);
    ((shift as usize) << FINE) + (value >> shift) as usize
}

fn upper_end(bucket: usize) -> u64 {
    let shift = (bucket >> FINE).saturating_sub(1) as u32;
    let value = (bucket - ((shift as usize) << FINE)) as u64;
    // The last bucket ends with the last number.
    (value << shift) | ((1 << shift) - 1)
}

/// How long something took: the number of times, and quantiles of them that are right to a sixteenth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many.
    pub count: u64,
    /// The median.
    pub p50: Duration,
    /// Nine of ten were no longer.
    pub p90: Duration,
    /// All but one in a hundred were no longer.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// What a queue has done since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests that were run.
    pub requests: u64,
    /// Rows of these.
    pub rows: u64,
    /// Runs.
    pub batches: u64,
    /// Requests of a run, and how many runs had so many.
    pub sizes: BTreeMap<usize, u64>,
    /// Requests that became runners at once, without waiting for anything.
    pub at_once: u64,
    /// Runners that waited for others to come back, and those of them for which most did.
    pub regrouped: [u64; 2],
    /// Requests whose owner ran out of time.
    pub timed_out: u64,
    /// Requests that their owner gave up.
    pub cancelled: u64,
    /// Requests that found the queue full.
    pub refused: u64,
    /// Requests that went back because their runner was interrupted.
    pub requeued: u64,
    /// From arrival to the begin of the run.
    pub queue_time: Summary,
    /// From arrival to the end of the run.
    pub latency: Summary,
    /// Requests that wait now, and runs that are going on.
    pub queued: usize,
    /// Runs that are going on now.
    pub running: usize,
}

#[cfg(test)]
mod tests {
    use super::{BUCKETS, Times, bucket, upper_end};
    use std::time::Duration;

    #[test]
    fn every_value_lies_in_its_bucket_and_buckets_are_narrow() {
        let mut values: Vec<u64> = (0..1000).collect();
        values.extend((0..64).flat_map(|bit| [(1_u64 << bit) - 1, 1 << bit, (1 << bit) + (1 << bit) / 3]));
        values.push(u64::MAX);
        for value in values {
            let at = bucket(value);
            assert!(at < BUCKETS, "{value}");
            assert!(value <= upper_end(at), "{value}");
            assert!(at == 0 || upper_end(at - 1) < value, "{value}");
            assert!(upper_end(at) - value <= value / 16, "{value}");
        }
    }

    #[test]
    fn quantiles_are_those_of_the_sorted_values() {
        let mut times = Times::new();
        for microseconds in (1..=1000).rev() {
            times.add(Duration::from_micros(microseconds));
        }
        let summary = times.summary();
        for (got, want) in [(summary.p50, 500), (summary.p90, 900), (summary.p99, 990)] {
            let want = Duration::from_micros(want);
            assert!(got >= want && got <= want + want / 16, "{got:?} {want:?}");
        }
        assert_eq!((summary.count, summary.max), (1000, Duration::from_micros(1000)));
        assert_eq!(Times::new().summary(), super::Summary::default());
    }
}
