//! Compiled kernels on disk. Some drivers, llvmpipe among them, give out a cache without kernels; what can only be seen
//! with kernels in it is tested with the others.
#![cfg(not(loom))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test says by a panic what is wrong")]

#[path = "common/adapter.rs"]
mod adapter;

use rivulet_hal::sync::Arc;
use rivulet_hal::vulkan::Options;
use rivulet_hal::{Device, PipelineDesc, PipelineSource};
use std::path::{Path, PathBuf};

/// A folder of its own for each test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("rivulet-cache-{}-{name}", std::process::id())))
    }

    /// Files in it that are whole; drafts may not stay behind.
    fn files(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(&self.0).map(|entries| entries.map(|entry| entry.unwrap().path()));
        let files: Vec<PathBuf> = entries.map(Iterator::collect).unwrap_or_default();
        assert!(files.iter().all(|file| file.extension().is_some_and(|end| end == "bin")), "{files:?}");
        files
    }

    fn file(&self) -> PathBuf {
        let files = self.files();
        assert_eq!(files.len(), 1, "{files:?}");
        files.into_iter().next().unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(self.file()).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(folder: &Path) -> Option<Arc<dyn Device>> {
    adapter::open(&Options { cache: Some(folder.to_owned()), ..Options::default() })
}

/// True where the driver's cache has grown with its kernels.
fn has_kernels(file: &[u8]) -> bool {
    file.len() > 1024
}

/// A kernel that no other number gives.
fn compile(device: &Arc<dyn Device>, number: u32) {
    let wgsl = format!(
        "@group(0) @binding(0) var<storage, read_write> data: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {{
            if id.x < arrayLength(&data) {{ data[id.x] = data[id.x] * {number}u + id.x; }}
        }}"
    );
    let module = naga::front::wgsl::parse_str(&wgsl).unwrap();
    let mut validator =
        naga::valid::Validator::new(naga::valid::ValidationFlags::all(), naga::valid::Capabilities::all());
    let info = validator.validate(&module).unwrap();
    let options = naga::back::spv::Options { lang_version: (1, 3), ..Default::default() };
    let words = naga::back::spv::write_vec(&module, &info, &options, None).unwrap();
    let desc = PipelineDesc {
        label: format!("kernel {number}"),
        source: PipelineSource::SpirV(words),
        bindings: 1,
        param_bytes: 0,
        workgroup: [64, 1, 1],
    };
    device.pipeline(&desc).unwrap();
}

macro_rules! open_or_skip {
    ($folder:expr) => {
        match open($folder) {
            Some(device) => device,
            None => return,
        }
    };
}

#[test]
fn a_later_device_has_the_kernels_of_an_earlier_one() {
    let folder = Folder::new("kept");
    let first = open_or_skip!(&folder.0);
    assert!(!folder.0.exists(), "nothing is written before something was compiled");
    (10..20).for_each(|number| compile(&first, number));
    assert!(!folder.0.exists(), "compiling writes rarely");
    first.save_pipelines();
    let ten = folder.bytes();
    drop(first);
    assert_eq!(folder.bytes(), ten, "nothing new, nothing written");
    // Without the file the driver's cache still holds what was read from it.
    let second = open(&folder.0).unwrap();
    std::fs::remove_file(folder.file()).unwrap();
    compile(&second, 20);
    drop(second);
    let eleven = folder.bytes();
    assert!(eleven.len() > ten.len() || !has_kernels(&ten), "{} bytes after {}", eleven.len(), ten.len());
}

#[test]
fn what_another_process_wrote_meanwhile_is_kept() {
    let folder = Folder::new("merged");
    let (first, second) = (open_or_skip!(&folder.0), open(&folder.0).unwrap());
    (10..20).for_each(|number| compile(&first, number));
    drop(first);
    let ten = folder.bytes();
    compile(&second, 20);
    drop(second);
    let eleven = folder.bytes();
    assert!(eleven.len() > ten.len() || !has_kernels(&ten), "{} bytes after {}", eleven.len(), ten.len());
}

#[test]
fn a_damaged_or_foreign_file_is_written_anew() {
    let folder = Folder::new("damaged");
    let first = open_or_skip!(&folder.0);
    (10..20).for_each(|number| compile(&first, number));
    drop(first);
    let whole = folder.bytes();
    let mut flipped = whole.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let foreign = [&whole[..16], b"f", &whole[17..]].concat();
    for bad in [&whole[..whole.len() / 2], &flipped, &foreign, b"", b"no cache at all"] {
        std::fs::write(folder.file(), bad).unwrap();
        let device = open(&folder.0).unwrap();
        compile(&device, 20);
        drop(device);
        let now = folder.bytes();
        assert!(now.starts_with(&whole[..16]) && now != bad && now != foreign, "written anew");
        assert!(now.len() < whole.len() || !has_kernels(&whole), "one kernel, not eleven: {}", now.len());
    }
}

#[test]
fn a_folder_that_cannot_be_written_costs_nothing() {
    let folder = Folder::new("file");
    std::fs::write(&folder.0, b"a file where the folder should be").unwrap();
    let device = open_or_skip!(&folder.0);
    compile(&device, 10);
    device.save_pipelines();
    drop(device);
    std::fs::remove_file(&folder.0).unwrap();
}

#[test]
fn a_full_place_leaves_the_old_file_and_no_draft() {
    let folder = Folder::new("rename");
    let first = open_or_skip!(&folder.0);
    compile(&first, 10);
    drop(first);
    // Nothing can be renamed over a folder that is not empty.
    let file = folder.file();
    std::fs::remove_file(&file).unwrap();
    std::fs::create_dir_all(file.join("full")).unwrap();
    let second = open(&folder.0).unwrap();
    compile(&second, 11);
    drop(second);
    assert!(folder.file().is_dir());
}

#[test]
fn without_a_folder_nothing_is_written() {
    let Some(device) = adapter::open(&Options::default()) else { return };
    compile(&device, 10);
    device.save_pipelines();
}
