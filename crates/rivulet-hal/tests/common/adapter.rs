//! The Vulkan adapter of the tests, of every crate: Mesa's llvmpipe, or the one whose name contains
//! `RIVULET_TEST_ADAPTER`, case ignored. Tests are skipped where there is none, unless `RIVULET_REQUIRE_VULKAN=1`.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use rivulet_hal::Device;
use rivulet_hal::sync::Arc;
use rivulet_hal::vulkan::{self, Options};

#[allow(clippy::disallowed_methods, reason = "switches of the tests alone")]
fn switch(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Part of the adapter's name.
pub fn wanted() -> String {
    switch("RIVULET_TEST_ADAPTER").unwrap_or_else(|| "llvmpipe".to_owned())
}

/// Its number among Vulkan's.
pub fn find() -> Option<usize> {
    let part = wanted().to_lowercase();
    let found = vulkan::adapters().iter().position(|adapter| adapter.name.to_lowercase().contains(&part));
    if found.is_none() {
        let required = switch("RIVULET_REQUIRE_VULKAN").is_some_and(|value| value == "1");
        assert!(!required, "no adapter is called {part}: mesa-vulkan-drivers has llvmpipe");
        eprintln!("skipped: no adapter is called {part} (mesa-vulkan-drivers has llvmpipe)");
    }
    found
}

/// What `open` gives with the validation layer looking on; without it only where that is not installed.
pub fn validated<T, E: std::fmt::Display + std::fmt::Debug>(open: impl Fn(bool) -> Result<T, E>) -> T {
    open(true).unwrap_or_else(|error| {
        assert!(error.to_string().contains("not installed"), "{error}");
        open(false).unwrap()
    })
}

/// The adapter, opened with these options.
pub fn open(options: &Options) -> Option<Arc<dyn Device>> {
    let index = find()?;
    Some(validated(|validation| vulkan::open(index, Options { validation, ..options.clone() })))
}
