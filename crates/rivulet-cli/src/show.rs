//! `adapters` and `report`.

use rivulet::{Device, DeviceOptions};
use rivulet_hal::AdapterInfo;

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn describe(adapter: &AdapterInfo) {
    println!("{}", adapter.name);
    println!("  driver          {} ({:?})", adapter.driver, adapter.backend);
    println!("  queues          {}", adapter.queues);
    println!(
        "  memory          {}, shared with the CPU: {}",
        mib(adapter.memory_bytes),
        adapter.unified_memory
    );
    println!("  one allocation  at most {}", mib(adapter.max_allocation));
    println!("  completes       {}", if adapter.inline_completion { "inline" } else { "later" });
    println!("  float64         {}", adapter.float64);
}

/// Lists what the machine offers; opens nothing.
#[allow(clippy::unnecessary_wraps, reason = "every command answers alike")]
pub(crate) fn adapters() -> Result<(), String> {
    rivulet_hal::adapters().iter().for_each(describe);
    Ok(())
}

/// Opens the device that the settings choose and shows it.
pub(crate) fn report() -> Result<(), String> {
    let device = Device::open(DeviceOptions::default()).map_err(|error| error.to_string())?;
    // The first use fixes the pool and finds a bad setting.
    device.current_stream().map_err(|error| error.to_string())?;
    let report = device.report();
    describe(&report.adapter);
    println!("queues in use     {}", report.queues);
    if let Some(pool) = &report.pool {
        println!(
            "pool              {} slots, {} in use, {} waiting",
            pool.size,
            pool.used.len(),
            pool.waiting
        );
        for slot in &pool.used {
            let owner = slot.owner.as_ref().map_or("nobody".to_owned(), |owner| format!("{:?}", owner.name));
            println!("  {}  {owner}, shared by {}", slot.stream, slot.sharers);
        }
    }
    for stream in &report.streams {
        let failure = stream.failure.as_deref().unwrap_or("sound");
        println!("{}     queue {}, priority {}, {failure}", stream.id, stream.queue, stream.priority);
    }
    if let Some(memory) = &report.memory {
        println!("memory            {} allocated, {} reserved", mib(memory.allocated), mib(memory.reserved));
    }
    println!("settings");
    for (name, value) in &report.settings {
        println!("  {name:<34}{}", value.as_deref().unwrap_or("-"));
    }
    match report.failure {
        Some(failure) => Err(failure),
        None => Ok(()),
    }
}
