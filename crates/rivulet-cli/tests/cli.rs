//! The binary as people call it.
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

fn rivulet(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rivulet"));
    command.args(arguments).envs(env.iter().copied());
    command.output().expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn adapters_and_report_name_the_host() {
    let adapters = rivulet(&["adapters"], &[]);
    assert!(adapters.status.success() && text(&adapters.stdout).contains("Host CPU"));
    let report = rivulet(&["report"], &[("MPS_STREAM_POOL_SIZE", "7")]);
    let shown = text(&report.stdout);
    assert!(
        report.status.success() && shown.contains("7 slots") && shown.contains("MPS_STREAM_POOL_SIZE"),
        "{shown}"
    );
}

#[test]
fn stress_checks_its_sums_on_both_adapters() {
    for adapter in ["host", "sim"] {
        let output = rivulet(&["stress", "--threads", "6", "--rounds", "300", "--adapter", adapter], &[]);
        let shown = text(&output.stdout) + &text(&output.stderr);
        assert!(
            output.status.success() && shown.contains("1800 ops") && shown.contains("sums right"),
            "{shown}"
        );
    }
}

#[test]
fn bad_settings_and_lines_fail_with_words() {
    let output = rivulet(&["report"], &[("RIVULET_ADAPTER", "sim")]);
    let shown = text(&output.stderr);
    assert!(
        output.status.code() == Some(1) && shown.contains("RIVULET_ADAPTER") && shown.contains("auto, host")
    );
    let output = rivulet(&["dance"], &[]);
    assert!(output.status.code() == Some(2) && text(&output.stderr).contains("dance"));
}
