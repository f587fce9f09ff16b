use super::command::HostCommands;
use super::timeline::HostTimeline;
use crate::{HalError, Submission, TimelinePoint};

fn own(point: &TimelinePoint) -> Result<&HostTimeline, HalError> {
    let own = point.timeline.as_any().downcast_ref::<HostTimeline>();
    own.ok_or_else(|| HalError::Usage("submit: a timeline of another driver".to_owned()))
}

/// Runs one submission on the calling thread.
pub(super) fn run(submission: &Submission) -> Result<(), HalError> {
    // Everything that can be refused is looked at before anything waits or runs.
    let signal = own(&submission.signal)?;
    let waits = submission.waits.iter().map(|point| Ok((own(point)?, point.value)));
    let waits = waits.collect::<Result<Vec<_>, HalError>>()?;
    let buffers = submission.commands.iter().map(HostCommands::take).collect::<Result<Vec<_>, _>>()?;
    for (timeline, value) in waits {
        timeline.wait_forever(value);
    }
    for buffer in buffers {
        buffer.run()?;
    }
    crate::Timeline::signal(signal, submission.signal.value)
}
