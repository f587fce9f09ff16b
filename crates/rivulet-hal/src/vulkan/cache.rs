//! Compiled kernels on disk, so that the next process need not compile them.
//!
//! One file for each device, driver and version of this crate, named after them. It holds what the driver gives out as
//! `VkPipelineCache`, behind a head of our own: drivers are not relied on to survive a damaged file. What cannot be read
//! or written costs time and nothing else, so no failure here is an error.

use super::shared::Shared;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{self, Mutex, Rank};
use ash::vk;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const MAGIC: &[u8; 8] = b"RVLTVKP1";
/// Larger files are neither read nor written.
const MOST: u64 = 256 << 20;
/// While kernels are being compiled, at most one write in this time.
const INTERVAL: Duration = Duration::from_secs(10);

sync::global! {
    /// Tells temporary files of one process apart.
    static FILES: AtomicU64 = AtomicU64::new(0);
}

/// Where a device's compiled kernels are kept.
#[derive(Debug)]
pub(super) struct DiskCache {
    folder: PathBuf,
    key: String,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Kernels compiled since the last write.
    new: usize,
    last: Instant,
    /// Checksum of what this process has read or written last.
    known: Option<u64>,
    writing: bool,
}

impl DiskCache {
    /// The cache of a device in a folder that need not exist.
    pub(super) fn new(folder: PathBuf, properties: &vk::PhysicalDeviceProperties) -> Self {
        let uuid: String = properties.pipeline_cache_uuid.iter().map(|byte| format!("{byte:02x}")).collect();
        let (vendor, device) = (properties.vendor_id, properties.device_id);
        let (driver, own) = (properties.driver_version, env!("CARGO_PKG_VERSION"));
        let state = State { new: 0, last: Instant::now(), known: None, writing: false };
        Self {
            folder,
            key: format!("{vendor:04x}-{device:04x}-{driver:08x}-{uuid}-{own}"),
            state: Mutex::new(Rank::DRIVER, state),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("vulkan-{}.bin", self.key))
    }

    /// What an earlier process has left; empty where there is nothing that fits.
    pub(super) fn load(&self) -> Vec<u8> {
        let Some((data, sum)) = read(&self.path(), &self.key) else { return Vec::new() };
        self.state.lock().known = Some(sum);
        data
    }

    /// A kernel was compiled. Writes from time to time.
    pub(super) fn note(&self, shared: &Shared) {
        let mut state = self.state.lock();
        state.new += 1;
        let due = state.last.elapsed() >= INTERVAL;
        drop(state);
        if due {
            self.save(shared);
        }
    }

    /// Writes what was compiled since the last write, unless another thread is at it.
    pub(super) fn save(&self, shared: &Shared) {
        let mut state = self.state.lock();
        if state.new == 0 || state.writing {
            return;
        }
        (state.new, state.writing, state.last) = (0, true, Instant::now());
        let known = state.known;
        drop(state);
        let written = self.write(shared, known);
        let mut state = self.state.lock();
        state.writing = false;
        state.known = written.or(known);
    }

    /// The checksum of what is on disk now.
    fn write(&self, shared: &Shared, known: Option<u64>) -> Option<u64> {
        let path = self.path();
        // Another process may have written meanwhile: its kernels are kept.
        let other = read(&path, &self.key).filter(|(_, sum)| Some(*sum) != known);
        let data = match &other {
            Some((theirs, _)) => merged(shared, theirs)?,
            None => data_of(shared, shared.cache)?,
        };
        let sum = checksum(&data);
        if Some(sum) == other.map(|(_, sum)| sum).or(known) && path.exists() {
            return Some(sum);
        }
        if data.len() as u64 > MOST {
            return None;
        }
        store(&self.folder, &path, &encode(&self.key, &data)).ok()?;
        Some(sum)
    }
}

fn data_of(shared: &Shared, cache: vk::PipelineCache) -> Option<Vec<u8>> {
    // SAFETY: the cache is alive; reading it beside compilations is allowed.
    unsafe { shared.device.get_pipeline_cache_data(cache) }.ok().filter(|data| !data.is_empty())
}

/// The device's cache together with what another process has written.
fn merged(shared: &Shared, theirs: &[u8]) -> Option<Vec<u8>> {
    let device = &shared.device;
    let info = vk::PipelineCacheCreateInfo::default().initial_data(theirs);
    // SAFETY: the data is what the same driver gave out, as its key and checksum say.
    let both = unsafe { device.create_pipeline_cache(&info, None) }.ok()?;
    // SAFETY: the target is this thread's alone; the source may be in use.
    let done = unsafe { device.merge_pipeline_caches(both, &[shared.cache]) };
    let data = done.ok().and_then(|()| data_of(shared, both));
    // SAFETY: nobody else has seen it.
    unsafe { device.destroy_pipeline_cache(both, None) };
    data
}

/// FNV-1a: finds damage, not forgery.
fn checksum(data: &[u8]) -> u64 {
    data.iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, &byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn encode(key: &str, data: &[u8]) -> Vec<u8> {
    let mut file = Vec::with_capacity(data.len() + key.len() + 32);
    file.extend_from_slice(MAGIC);
    file.extend_from_slice(&(key.len() as u64).to_le_bytes());
    file.extend_from_slice(key.as_bytes());
    file.extend_from_slice(&(data.len() as u64).to_le_bytes());
    file.extend_from_slice(&checksum(data).to_le_bytes());
    file.extend_from_slice(data);
    file
}

/// The driver's data in a file of this key, and its checksum.
fn decode<'f>(file: &'f [u8], key: &str) -> Option<(&'f [u8], u64)> {
    fn number(file: &mut &[u8]) -> Option<u64> {
        let (head, rest) = file.split_at_checked(8)?;
        *file = rest;
        head.try_into().ok().map(u64::from_le_bytes)
    }
    let mut rest = file.strip_prefix(MAGIC)?;
    let length = usize::try_from(number(&mut rest)?).ok()?;
    let (found, mut rest) = rest.split_at_checked(length)?;
    if found != key.as_bytes() {
        return None;
    }
    let (length, sum) = (number(&mut rest)?, number(&mut rest)?);
    (rest.len() as u64 == length && checksum(rest) == sum).then_some((rest, sum))
}

fn read(path: &Path, key: &str) -> Option<(Vec<u8>, u64)> {
    let file = fs::File::open(path).ok()?;
    let length = file.metadata().ok().filter(fs::Metadata::is_file)?.len();
    if length > MOST {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).ok()?;
    let (data, sum) = decode(&bytes, key)?;
    Some((data.to_vec(), sum))
}

/// Writes a file as a whole or not at all.
fn store(folder: &Path, path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    let number = FILES.fetch_add(1, Ordering::Relaxed);
    let draft = folder.join(format!(".{}-{number}.tmp", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&draft)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::{DiskCache, decode, encode, store};
    use ash::vk;

    #[test]
    fn what_was_stored_is_loaded_by_the_same_driver_and_no_other() {
        let folder = std::env::temp_dir().join(format!("rivulet-cache-load-{}", std::process::id()));
        let cache = |version| {
            let properties = vk::PhysicalDeviceProperties { driver_version: version, ..Default::default() };
            DiskCache::new(folder.clone(), &properties)
        };
        let own = cache(1);
        assert_eq!(own.load(), [0; 0], "no folder yet");
        store(&folder, &own.path(), &encode(&own.key, b"kernels")).unwrap();
        assert_eq!(own.load(), b"kernels");
        assert_eq!(cache(2).load(), [0; 0]);
        std::fs::copy(own.path(), cache(2).path()).unwrap();
        assert_eq!(cache(2).load(), [0; 0], "renamed, but still the other driver's");
        store(&folder, &own.path(), &encode(&own.key, b"kernels")[1..]).unwrap();
        assert_eq!(own.load(), [0; 0]);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "no draft stays");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_damaged_or_foreign_file_is_not_taken() {
        let file = encode("key", b"compiled kernels");
        assert_eq!(decode(&file, "key").map(|(data, _)| data), Some(&b"compiled kernels"[..]));
        assert!(decode(&file, "other").is_none());
        for length in 0..file.len() {
            assert!(decode(&file[..length], "key").is_none(), "cut at {length}");
        }
        for place in 0..file.len() {
            let mut damaged = file.clone();
            damaged[place] ^= 0x10;
            assert!(decode(&damaged, "key").is_none(), "damaged at {place}");
        }
        let longer = [&file[..], b"x"].concat();
        assert!(decode(&longer, "key").is_none());
    }
}
