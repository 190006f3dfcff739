//! What the machine has, for bounds that are a share of it.

use std::path::Path;

use tidegate_core::units::Size;

/// Where the kernel says how much memory there is.
const MEMINFO: &str = "/proc/meminfo";
/// Which control groups this process is in.
const MEMBERSHIP: &str = "/proc/self/cgroup";
/// Where control groups are mounted: version 2 here, version 1 in a folder of it for each controller.
const GROUPS: &str = "/sys/fs/cgroup";

/// Memory that this process can have: the machine's, or less where a control group bounds it. Nothing where the system
/// does not say.
pub(super) fn memory() -> Option<Size> {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    least(read)
}

fn least(read: impl Fn(&Path) -> Option<String>) -> Option<Size> {
    let machine = read(Path::new(MEMINFO)).as_deref().and_then(total);
    let membership = read(Path::new(MEMBERSHIP)).unwrap_or_default();
    // A group is bounded by those that it is in as well. In a container its path may be the host's: what is mounted there
    // is the container's own, which the walk ends with.
    let limits = groups(&membership).into_iter().flat_map(|(mount, file, path)| {
        let folders: Vec<_> =
            Path::new(path.trim_start_matches('/')).ancestors().map(|path| mount.join(path)).collect();
        folders.into_iter().map(move |folder| folder.join(file))
    });
    let limits = limits.filter_map(|file| read(&file)?.trim().parse().ok());
    machine.into_iter().chain(limits).min().map(Size)
}

/// The memory groups in `/proc/self/cgroup`: where they are mounted, the file that holds the limit, the group's path.
fn groups(membership: &str) -> Vec<(std::path::PathBuf, &'static str, &str)> {
    let group = |line| {
        let mut fields = str::splitn(line, 3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        if controllers.is_empty() {
            return Some((Path::new(GROUPS).to_owned(), "memory.max", path));
        }
        let bounds_memory = controllers.split(',').any(|controller| controller == "memory");
        bounds_memory.then(|| (Path::new(GROUPS).join("memory"), "memory.limit_in_bytes", path))
    };
    membership.lines().filter_map(group).collect()
}

/// `MemTotal` of `/proc/meminfo`, bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO_8G: (&str, &str) = (MEMINFO, "MemTotal:        8388608 kB\nMemFree:          123456 kB\n");

    #[test]
    fn the_smallest_of_the_machine_and_the_groups_it_is_in_counts() {
        let v2 = (MEMBERSHIP, "0::/a/b\n");
        let v1 = (MEMBERSHIP, "9:cpu,cpuacct:/a\n4:memory:/docker/x\n0::/\n");
        type Files<'a> = &'a [(&'a str, &'a str)];
        let cases: &[(&str, Files<'_>, Option<u64>)] = &[
            ("nothing is known", &[], None),
            ("no group", &[MEMINFO_8G], Some(8 << 30)),
            ("no limit", &[MEMINFO_8G, v2, ("/sys/fs/cgroup/a/b/memory.max", "max\n")], Some(8 << 30)),
            ("its own limit", &[MEMINFO_8G, v2, ("/sys/fs/cgroup/a/b/memory.max", "1048576\n")], Some(1 << 20)),
            (
                "that of the group around it",
                &[
                    MEMINFO_8G,
                    v2,
                    ("/sys/fs/cgroup/a/b/memory.max", "2097152\n"),
                    ("/sys/fs/cgroup/a/memory.max", "1048576\n"),
                ],
                Some(1 << 20),
            ),
            (
                "a container that sees itself as the root",
                &[MEMINFO_8G, (MEMBERSHIP, "0::/\n"), ("/sys/fs/cgroup/memory.max", "536870912")],
                Some(512 << 20),
            ),
            (
                "version 1, the host's path in a container",
                &[MEMINFO_8G, v1, ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "536870912\n")],
                Some(512 << 20),
            ),
            (
                "version 1 without a limit",
                &[MEMINFO_8G, v1, ("/sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "9223372036854771712\n")],
                Some(8 << 30),
            ),
            ("a group, and nothing of the machine", &[v2, ("/sys/fs/cgroup/a/memory.max", "4096")], Some(4096)),
            ("what can't be read", &[(MEMINFO, "MemTotal: much"), (MEMBERSHIP, "what\n0:memory\n")], None),
        ];
        for (name, files, expected) in cases {
            let read = |path: &Path| {
                files.iter().find(|(file, _)| Path::new(file) == path).map(|(_, text)| (*text).to_owned())
            };
            assert_eq!(least(read).map(Size::get), *expected, "{name}");
        }
    }
}
