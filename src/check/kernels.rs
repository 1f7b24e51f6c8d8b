//! Single kernels on the card against their CPU references.

use sconce_kernels::gpu::device::GpuDevice;
use sconce_kernels::gpu::verify::{Bed, Fault, checks};
use serde_json::Value;

use super::Open;
use super::report::{Reason, Report};

/// A line for every kind of kernel.
pub fn kernels<D: GpuDevice>(report: &mut Report<'_>, open: Open<'_, D>) {
    for check in checks() {
        report.line(check.name, || {
            (check.run)(&mut Bed::new(open()?))?;
            Ok(Value::Null.into())
        });
    }
}

impl From<Fault> for Reason {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Device(error) => error.into(),
            Fault::Wrong(text) => Self::Failed(text),
        }
    }
}
