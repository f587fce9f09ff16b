//! What the errors of `MTLCommandBufferErrorDomain` mean for the device and for a stream.

use super::api::Fault;
use crate::HalError;

/// Names of `MTLCommandBufferError`, by number.
pub(super) fn name(code: usize) -> &'static str {
    match code {
        0 => "None",
        1 => "Internal",
        2 => "Timeout",
        3 => "PageFault",
        4 => "AccessRevoked",
        7 => "NotPermitted",
        8 => "OutOfMemory",
        9 => "InvalidResource",
        10 => "Memoryless",
        11 => "DeviceRemoved",
        12 => "StackOverflow",
        _ => "unknown",
    }
}

/// The error that a fault of the submission called `label` is.
///
/// A kernel that was stopped midway (Timeout, Internal), wrote where it should not (PageFault), or a process that may no
/// longer use the GPU (AccessRevoked, once called blacklisted; DeviceRemoved) leave nothing to go on with: the device is
/// lost. A lack of memory and a refused command buffer (NotPermitted, InvalidResource, Memoryless, StackOverflow) ran
/// nothing and concern that submission.
pub(super) fn of(label: &str, fault: &Fault) -> HalError {
    let Fault { code, text } = fault;
    let words = format!("command buffer `{label}` failed with {} ({code}): {text}", name(*code));
    match code {
        8 => HalError::OutOfMemory { requested: 0, detail: words },
        7 | 9 | 10 | 12 => HalError::Usage(words),
        _ => HalError::DeviceLost { reason: words },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_code(code: usize) -> HalError {
        of("softmax", &Fault { code, text: "words of the driver".to_owned() })
    }

    #[test]
    fn what_leaves_memory_in_doubt_loses_the_device() {
        for code in [1, 2, 3, 4, 11, 99] {
            assert!(matches!(of_code(code), HalError::DeviceLost { .. }), "{code}");
        }
    }

    #[test]
    fn what_ran_nothing_concerns_its_stream() {
        assert!(matches!(of_code(8), HalError::OutOfMemory { .. }));
        for code in [7, 9, 10, 12] {
            assert!(matches!(of_code(code), HalError::Usage(_)), "{code}");
        }
    }

    #[test]
    fn the_label_the_name_and_the_words_are_told() {
        let text = of_code(3).to_string();
        assert!(["`softmax`", "PageFault (3)", "words of the driver"].iter().all(|word| text.contains(word)));
    }
}
