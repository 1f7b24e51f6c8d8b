//! What this process may use of the machine: physical cores (affinity, CPU quota) and memory (cgroup
//! v1 and v2 limits). Everything is read from files under a root, so that tests can lay out their own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The machine, seen through `/proc` and `/sys`, and whether a GPU will compute.
#[derive(Clone, Debug)]
pub struct Machine {
    root: PathBuf,
    gpu: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Self::at("/")
    }
}

/// Names of one cgroup version's memory files.
struct MemoryFiles {
    limit: &'static str,
    usage: &'static str,
    reclaimable: &'static str,
}

const V2: MemoryFiles = MemoryFiles { limit: "memory.max", usage: "memory.current", reclaimable: "inactive_file" };
const V1: MemoryFiles =
    MemoryFiles { limit: "memory.limit_in_bytes", usage: "memory.usage_in_bytes", reclaimable: "total_inactive_file" };

impl Machine {
    /// A machine whose files lie under `root` in place of `/`.
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), gpu: false }
    }

    /// The same machine with or without a GPU: it computes much larger steps.
    pub fn with_gpu(self, gpu: bool) -> Self {
        Self { gpu, ..self }
    }

    /// Whether a GPU will compute.
    pub fn has_gpu(&self) -> bool {
        self.gpu
    }

    /// Physical cores this process may run on, after affinity and CPU quota; at least 1.
    pub fn cores(&self) -> usize {
        let allowed = self.allowed_cpus();
        let cores: BTreeSet<String> = allowed
            .iter()
            .map(|cpu| {
                let file = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
                // Hardware threads of one core list the same siblings.
                self.read(&file).unwrap_or_else(|| cpu.to_string())
            })
            .collect();
        let physical = match cores.len() {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        self.cpu_quota().map_or(physical, |quota| physical.min(quota)).max(1)
    }

    /// Bytes this process can take now without swapping or being killed; `None` where it can't be told.
    pub fn available_memory(&self) -> Option<u64> {
        let system = self.read("proc/meminfo").and_then(|text| {
            let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
            line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
        });
        let v2 = self.cgroup_dirs("").into_iter().filter_map(|dir| remaining(&dir, &V2));
        let v1 = self.cgroup_dirs("memory").into_iter().filter_map(|dir| remaining(&dir, &V1));
        system.into_iter().chain(v2).chain(v1).min()
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok().map(|text| text.trim().to_owned())
    }

    fn allowed_cpus(&self) -> Vec<usize> {
        let status = self.read("proc/self/status").unwrap_or_default();
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        list.map(parse_cpu_list).unwrap_or_default()
    }

    /// Whole CPUs of the tightest quota among this group and its ancestors.
    fn cpu_quota(&self) -> Option<usize> {
        let v2 = self.cgroup_dirs("").into_iter().filter_map(|dir| {
            let text = std::fs::read_to_string(dir.join("cpu.max")).ok()?;
            let (quota, period) = text.trim().split_once(' ')?;
            whole_cpus(quota, period)
        });
        let v1 = self.cgroup_dirs("cpu").into_iter().filter_map(|dir| {
            let quota = std::fs::read_to_string(dir.join("cpu.cfs_quota_us")).ok()?;
            let period = std::fs::read_to_string(dir.join("cpu.cfs_period_us")).ok()?;
            whole_cpus(quota.trim(), period.trim())
        });
        v2.chain(v1).min()
    }

    /// Folders of this process's cgroup and of its ancestors. `controller` is empty for version 2.
    /// In a container the path that the kernel names may lie outside the mount; then the mount's
    /// own root is this process's group.
    fn cgroup_dirs(&self, controller: &str) -> Vec<PathBuf> {
        let groups = self.read("proc/self/cgroup").unwrap_or_default();
        let path = groups.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, parts.next()?);
            controllers.split(',').any(|c| c == controller).then(|| path.trim_start_matches('/').to_owned())
        });
        let mount = match controller {
            "" if self.root.join("sys/fs/cgroup/unified").is_dir() => self.root.join("sys/fs/cgroup/unified"),
            "" => self.root.join("sys/fs/cgroup"),
            name => self.root.join("sys/fs/cgroup").join(name),
        };
        let own = mount.join(path.unwrap_or_default());
        own.ancestors().take_while(|dir| dir.starts_with(&mount)).map(Path::to_path_buf).collect()
    }
}

/// Bytes left under the limit of one cgroup; page cache that can be dropped counts as free.
fn remaining(dir: &Path, files: &MemoryFiles) -> Option<u64> {
    let number = |file: &str| std::fs::read_to_string(dir.join(file)).ok()?.trim().parse::<u64>().ok();
    // "max" (version 2) doesn't parse: no limit. Version 1 writes a huge number, which then never is the least.
    let limit = number(files.limit)?;
    let usage = number(files.usage).unwrap_or(0);
    let stat = std::fs::read_to_string(dir.join("memory.stat")).unwrap_or_default();
    let reclaimable =
        stat.lines().find_map(|line| line.strip_prefix(files.reclaimable)?.trim().parse::<u64>().ok()).unwrap_or(0);
    Some(limit.saturating_sub(usage.saturating_sub(reclaimable)))
}

fn whole_cpus(quota: &str, period: &str) -> Option<usize> {
    // "max" and -1 mean no quota; neither parses as an unsigned number.
    let (quota, period) = (quota.parse::<u64>().ok()?, period.parse::<u64>().ok()?);
    (period > 0).then(|| (quota / period).max(1) as usize)
}

/// `0-3,8,10-11`; ranges are bounded, a malformed part is skipped.
fn parse_cpu_list(text: &str) -> Vec<usize> {
    const MOST_CPUS: usize = 8192;
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?);
            Some(first..=last.min(first.saturating_add(MOST_CPUS)))
        })
        .flatten()
        .take(MOST_CPUS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Machine) {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let machine = Machine::at(dir.path());
        (dir, machine)
    }

    #[test]
    fn cpu_lists() {
        assert_eq!(parse_cpu_list(" 0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(parse_cpu_list("x,2"), [2]);
        assert!(parse_cpu_list("0-99999999999").len() <= 8193);
    }

    #[test]
    fn hardware_threads_count_once_and_affinity_counts() {
        let siblings = |cpu: usize| format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let (_dir, machine) = machine(&[
            ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-2,4\n"),
            (&siblings(0), "0,4"),
            (&siblings(4), "0,4"),
            (&siblings(1), "1,5"),
            (&siblings(2), "2,6"),
        ]);
        assert_eq!(machine.cores(), 3);
    }

    #[test]
    fn cgroup_v2_quota_and_memory_of_an_ancestor() {
        let (_dir, machine) = machine(&[
            ("proc/self/status", "Cpus_allowed_list:\t0-15\n"),
            ("proc/self/cgroup", "0::/kube/pod/box\n"),
            ("proc/meminfo", "MemTotal: 1 kB\nMemAvailable:   67108864 kB\n"),
            ("sys/fs/cgroup/kube/pod/cpu.max", "250000 100000\n"),
            ("sys/fs/cgroup/kube/pod/box/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/kube/pod/memory.max", "8589934592\n"),
            ("sys/fs/cgroup/kube/pod/memory.current", "3221225472\n"),
            ("sys/fs/cgroup/kube/pod/memory.stat", "anon 5\ninactive_file 1073741824\n"),
            ("sys/fs/cgroup/kube/pod/box/memory.max", "max\n"),
        ]);
        assert_eq!(machine.cores(), 2);
        assert_eq!(machine.available_memory(), Some(6 * GIB));
    }

    #[test]
    fn cgroup_v1_in_a_container_whose_path_lies_outside() {
        let (_dir, machine) = machine(&[
            ("proc/self/status", "Cpus_allowed_list:\t0-7\n"),
            ("proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n"),
            ("proc/meminfo", "MemAvailable: 33554432 kB\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "400000\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4294967296\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1073741824\n"),
            ("sys/fs/cgroup/memory/memory.stat", "total_inactive_file 0\n"),
        ]);
        assert_eq!(machine.cores(), 4);
        assert_eq!(machine.available_memory(), Some(3 * GIB));
    }

    #[test]
    fn no_limits_at_all() {
        let (_dir, machine) = machine(&[
            ("proc/self/status", "Cpus_allowed_list:\t0-1\n"),
            ("proc/meminfo", "MemAvailable: 1048576 kB\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(machine.cores(), 2);
        assert_eq!(machine.available_memory(), Some(GIB));
    }
}
