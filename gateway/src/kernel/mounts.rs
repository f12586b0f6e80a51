//! Mounts as this process and process 1 see them (proc_pid_mountinfo(5)). No privilege is needed to read them, unlike
//! the links in /proc/1/ns.
use std::{fs, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Context, Result};
use nix::sys::stat::{major, minor};

/// Returns true if this process is in the mount namespace of process 1. The kernel numbers the mounts of all namespaces
/// together (`mnt_alloc_id` in fs/namespace.c), so only processes of one namespace see the same number.
///
/// # Errors
/// If /proc does not show the mounts of process 1, as in some containers.
pub fn are_those_of_init() -> Result<bool> {
    Ok(have_one_in_common(&read("self")?, &read("1")?))
}

/// Returns true if process 1 has the file system of this path mounted somewhere.
///
/// # Errors
/// If /proc does not show the mounts of process 1, or the path cannot be looked at.
pub fn init_has_file_system_of(path: &Path) -> Result<bool> {
    let device = fs::metadata(path).with_context(|| format!("look at {}", path.display()))?.dev();
    Ok(has_device(&read("1")?, device))
}

fn read(process: &str) -> Result<String> {
    let path = format!("/proc/{process}/mountinfo");
    fs::read_to_string(&path).with_context(|| format!("read {path}"))
}

/// Compares the first field of each line, the mount's number.
fn have_one_in_common(own: &str, init: &str) -> bool {
    let numbers = |text: &str| text.lines().filter_map(|line| line.split(' ').next()?.parse().ok()).collect();
    let (own, init): (Vec<u64>, Vec<u64>) = (numbers(own), numbers(init));
    own.iter().any(|number| init.contains(number))
}

/// Looks for a device in the third field of each line, `major:minor`.
fn has_device(mounts: &str, device: u64) -> bool {
    let wanted = format!("{}:{}", major(device), minor(device));
    mounts.lines().any(|line| line.split(' ').nth(2) == Some(wanted.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INIT: &str = "22 27 0:21 / /proc rw,relatime - proc proc rw\n\
                        27 1 254:0 / / rw,relatime - ext4 /dev/root rw\n\
                        40 27 0:33 / /run/gateway/bpf rw shared:9 - bpf bpf rw,mode=700\n";

    #[test]
    fn namespaces_are_told_apart_by_the_numbers_of_mounts() {
        let copy = INIT.replace("22 27", "122 127").replace("27 1 ", "127 121 ").replace("40 27", "140 127");
        assert!(!have_one_in_common(&copy, INIT));
        assert!(have_one_in_common(INIT, INIT));
        // In a chroot only the mounts below the root are shown.
        assert!(have_one_in_common("40 27 0:33 / / rw shared:9 - bpf bpf rw,mode=700", INIT));
        assert!(!have_one_in_common("", ""));
    }

    #[test]
    fn file_system_is_found_by_its_device() {
        assert!(has_device(INIT, nix::sys::stat::makedev(0, 33)));
        assert!(!has_device(INIT, nix::sys::stat::makedev(0, 3)));
        // Neither the mount's number nor its parent's is a device.
        assert!(!has_device("0:7 0:7 0:33 / / rw - bpf bpf rw", nix::sys::stat::makedev(0, 7)));
    }

    #[test]
    fn own_file_systems_are_found_in_own_namespace() {
        let own = read("self").unwrap();
        assert!(has_device(&own, fs::metadata("/proc").unwrap().dev()));
        assert!(have_one_in_common(&own, &own));
    }
}
