//! The process's device: opened at the first use, from settings that may change until then.
//!
//! A process has one, so this is one test in a file of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![cfg(not(loom))]

mod common;

use common::TestEnv;
use rivulet::config::{self, EnvSource};
use rivulet::{Device, Error};
use rivulet_hal::sync::Arc;

#[test]
fn the_global_device_opens_once_and_after_a_bad_setting_was_mended() {
    let env = TestEnv::new(&[("RIVULET_ADAPTER", "sim")]);
    assert!(config::install_env(Arc::clone(&env) as Arc<dyn EnvSource>));
    assert!(!config::install_env(Arc::clone(&env) as Arc<dyn EnvSource>), "the first source stays");
    assert!(Device::global_if_open().is_none());
    let text = Device::global().unwrap_err().to_string();
    assert!(
        text.contains("RIVULET_ADAPTER") && text.contains("\"sim\"") && text.contains("auto, host"),
        "{text}"
    );
    env.set("RIVULET_ADAPTER", "host");
    env.set("RIVULET_QUEUES", "9999");
    assert!(matches!(Device::global(), Err(Error::Setting(error)) if error.variable == "RIVULET_QUEUES"));
    assert!(Device::global_if_open().is_none());
    env.set("RIVULET_QUEUES", "1");
    let devices: Vec<_> = (0..8).map(|_| std::thread::spawn(|| Device::global().unwrap())).collect();
    let devices: Vec<&'static Device> = devices.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(devices.iter().all(|device| std::ptr::eq(*device, devices[0])));
    assert_eq!(devices[0].queues(), 1);
    // Not lost, so there is nothing to open anew.
    Device::reset_global().unwrap();
    assert!(std::ptr::eq(Device::global().unwrap(), devices[0]));
}
