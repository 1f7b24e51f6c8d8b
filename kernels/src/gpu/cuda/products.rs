//! Matrix products by cublasLt: which algorithm for which product, its measurement, its one workspace.
//!
//! A product's shape (its rows rounded up to a bucket) chooses an algorithm: the measured one where there is one, else the
//! first of cublasLt's heuristic for the bucket's full size, so that it doesn't depend on which product came first. An
//! algorithm that can't do with the actual number of rows is replaced for that number alone.

use std::collections::{BTreeMap, HashMap};

use super::super::device::GpuError;
use super::super::gemm::{Gemm, GemmShape};
use super::super::launch::DevicePtr;
use super::context::{Context, Event};
use super::descriptors::{ALIGNMENT, Handle, Limits};
use super::plans::{Plan, PlanKey};
use super::problem::{Problem, describe};

/// Runs before the measured ones.
const WARM_UPS: usize = 2;

/// Measured runs, of which the median counts.
const RUNS: usize = 5;

/// The number of rows that the one algorithm of the deterministic mode is asked for.
const DETERMINISTIC_ROWS: usize = 128;

/// Numbers of rows that it has to accept.
const DETERMINISTIC_PROBES: [usize; 4] = [1, 8, 64, 2048];

/// Scratch memory by compute capability, in bytes: what cuBLAS takes by itself, doubled where it says 32 MiB is too little.
pub(super) fn workspace_bytes(compute: (u32, u32)) -> usize {
    if compute >= (9, 0) { 64 << 20 } else { 32 << 20 }
}

/// The library and its plans.
pub(super) struct Products {
    handle: Handle,
    workspace: DevicePtr,
    workspace_bytes: usize,
    /// What the measured plans hold for.
    pub(super) key: PlanKey,
    /// By shape.
    pub(super) measured: BTreeMap<GemmShape, Plan>,
    /// By shape and actual number of rows: what the next such product uses.
    chosen: HashMap<(GemmShape, usize), Plan>,
    deterministic: bool,
}

impl Products {
    /// Starts the library with a workspace of [`workspace_bytes`].
    pub(super) fn new(workspace: DevicePtr, key: PlanKey) -> Result<Self, GpuError> {
        let workspace_bytes = workspace_bytes(key.compute);
        let (measured, chosen) = (BTreeMap::new(), HashMap::new());
        Ok(Self { handle: Handle::new()?, workspace, workspace_bytes, key, measured, chosen, deterministic: false })
    }

    /// One algorithm for every number of rows, without partial sums; measured plans are out of use.
    pub(super) fn set_deterministic(&mut self, deterministic: bool) {
        self.deterministic = deterministic;
        self.chosen.clear();
    }

    /// Takes measured plans over.
    pub(super) fn add_measured(&mut self, plans: BTreeMap<GemmShape, Plan>) {
        self.measured.extend(plans);
        self.chosen.clear();
    }

    fn limits(&self) -> Limits {
        if self.deterministic {
            Limits { workspace: 0, split_k: false }
        } else {
            Limits { workspace: self.workspace_bytes, split_k: true }
        }
    }

    /// Issues a product.
    pub(super) fn run(&mut self, gemm: &Gemm, context: &Context) -> Result<(), GpuError> {
        check_operands(gemm)?;
        if gemm.m == 0 {
            return Ok(());
        }
        let problem = Problem::new(gemm, gemm.m)?;
        let plan = self.choose(gemm, &problem)?;
        self.issue(&problem, gemm, &plan, context)
    }

    fn issue(&self, problem: &Problem, gemm: &Gemm, plan: &Plan, context: &Context) -> Result<(), GpuError> {
        let workspace = (self.workspace, self.limits().workspace);
        problem.run(&self.handle, gemm, plan, workspace, context.stream())
    }

    /// The algorithm for a product; `problem` describes it.
    fn choose(&mut self, gemm: &Gemm, problem: &Problem) -> Result<Plan, GpuError> {
        let key = (gemm.shape(), gemm.m);
        if let Some(plan) = self.chosen.get(&key) {
            return Ok(*plan);
        }
        let plan = if self.deterministic { self.only(gemm, problem)? } else { self.best(gemm, problem)? };
        self.chosen.insert(key, plan);
        Ok(plan)
    }

    /// The bucket's algorithm, or one of this number of rows alone.
    fn best(&self, gemm: &Gemm, problem: &Problem) -> Result<Plan, GpuError> {
        let (shape, limits) = (gemm.shape(), self.limits());
        let of_bucket = match self.measured.get(&shape) {
            Some(plan) => Some(*plan),
            None => first(&Problem::new(gemm, shape.m)?.candidates(&self.handle, limits)?),
        };
        match of_bucket.filter(|plan| problem.accepts(&self.handle, plan, limits)) {
            Some(plan) => Ok(plan),
            None => first(&problem.candidates(&self.handle, limits)?).ok_or_else(|| none(gemm)),
        }
    }

    /// The deterministic mode's algorithm: the same for every number of rows. A number of rows that it can't do is an
    /// error, since another algorithm would give other sums. Whether its rows are equal to the bit at any number of rows
    /// is for a check on the card to say.
    fn only(&self, gemm: &Gemm, problem: &Problem) -> Result<Plan, GpuError> {
        let limits = self.limits();
        let probes: Vec<Problem> =
            DETERMINISTIC_PROBES.iter().map(|&rows| Problem::new(gemm, rows)).collect::<Result<_, _>>()?;
        let candidates = Problem::new(gemm, DETERMINISTIC_ROWS)?.candidates(&self.handle, limits)?;
        let mut fit = candidates
            .iter()
            .filter(|plan| probes.iter().chain([problem]).all(|problem| problem.accepts(&self.handle, plan, limits)));
        fit.next().copied().ok_or_else(|| none(gemm))
    }

    /// Measures the candidates on the given operands and keeps the fastest for the shape; `out` holds anything after it.
    /// A shape that has been measured is left, and so is all in the deterministic mode.
    pub(super) fn tune(&mut self, gemm: &Gemm, context: &Context) -> Result<(), GpuError> {
        check_operands(gemm)?;
        let shape = gemm.shape();
        if gemm.m == 0 || self.deterministic || self.measured.contains_key(&shape) {
            return Ok(());
        }
        let problem = Problem::new(gemm, gemm.m)?;
        let mut best: Option<Plan> = None;
        for plan in problem.candidates(&self.handle, self.limits())? {
            match self.time(&problem, gemm, &plan, context) {
                Ok(nanos) if best.is_none_or(|best| nanos < best.nanos) => best = Some(Plan { nanos, ..plan }),
                Err(error) if error.is_fatal() => return Err(error),
                // Slower, or a candidate that doesn't run after all.
                Ok(_) | Err(_) => {}
            }
        }
        self.measured.insert(shape, best.ok_or_else(|| none(gemm))?);
        self.chosen.retain(|(chosen, _), _| *chosen != shape);
        Ok(())
    }

    /// Median time of an algorithm, in nanoseconds.
    fn time(&self, problem: &Problem, gemm: &Gemm, plan: &Plan, context: &Context) -> Result<u64, GpuError> {
        for _ in 0..WARM_UPS {
            self.issue(problem, gemm, plan, context)?;
        }
        let events = (0..=RUNS).map(|_| Event::timed()).collect::<Result<Vec<_>, _>>()?;
        events[0].record(context.stream())?;
        for event in &events[1..] {
            self.issue(problem, gemm, plan, context)?;
            event.record(context.stream())?;
        }
        context.synchronize()?;
        let mut millis = Vec::with_capacity(RUNS);
        for pair in events.windows(2) {
            millis.push(pair[0].millis_to(&pair[1])?);
        }
        millis.sort_by(f32::total_cmp);
        Ok(((f64::from(millis[RUNS / 2]) * 1e6) as u64).max(1))
    }
}

fn first(plans: &[Plan]) -> Option<Plan> {
    plans.first().copied()
}

fn none(gemm: &Gemm) -> GpuError {
    GpuError::Call { call: "cublasLtMatmulAlgoGetHeuristic", reason: format!("no algorithm{}", describe(gemm)) }
}

/// Refuses what cublasLt would read or write wrongly.
fn check_operands(gemm: &Gemm) -> Result<(), GpuError> {
    let refuse = |what: &str| Err(GpuError::Operand(format!("{what} of a product{}", describe(gemm))));
    if gemm.n == 0 || gemm.k == 0 || !gemm.k.is_multiple_of(8) {
        return refuse("size");
    }
    if [gemm.a, gemm.w, gemm.out].contains(&DevicePtr::NULL) {
        return refuse("missing operand");
    }
    let operands = [gemm.a, gemm.w, gemm.out, gemm.bias];
    if operands.iter().any(|operand| !operand.0.is_multiple_of(u64::from(ALIGNMENT))) {
        return refuse("alignment of an operand");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::launch::HalfType;

    #[test]
    fn operands_are_checked() {
        let gemm = Gemm {
            m: 5,
            n: 4096,
            k: 64,
            a: DevicePtr(256),
            w: DevicePtr(512),
            bias: DevicePtr::NULL,
            out: DevicePtr(1024),
            half: HalfType::Bf16,
            out_f32: true,
            accumulate: true,
        };
        assert_eq!(check_operands(&gemm), Ok(()));
        let bad = [
            (Gemm { k: 60, ..gemm }, "size"),
            (Gemm { w: DevicePtr::NULL, ..gemm }, "missing operand"),
            (Gemm { bias: DevicePtr(8), ..gemm }, "alignment of an operand"),
        ];
        for (gemm, what) in bad {
            let text = check_operands(&gemm).expect_err(what).to_string();
            assert!(text.starts_with(&format!("{what} of a product for m 5, n 4096, k 6")), "{text}");
            assert!(text.contains(", bf16, f32 output") && text.ends_with(", accumulating"), "{text}");
        }
    }
}
