//! Named network namespaces, with a private `/run` for those in which daemons run.
use std::{
    fs::{self, File},
    os::{
        fd::{AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
};

/// Prefix of every namespace's name, so that a shared machine's users recognise them.
pub const PREFIX: &str = "gwlab-";

/// First and last ephemeral port. Forged packets of the lab's attacks use ports below, a different one in
/// each attack, so that none ever belongs to a connection.
const EPHEMERAL_PORTS: &str = "32768 60999";

/// The folder in which `ip netns` keeps names.
const NAMES: &str = "/run/netns";

/// A network namespace, optionally with a mount namespace that has a `/run` of its own.
///
/// It lives as long as this value, its name in `/run/netns`, or a process in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    net: OwnedFd,
    mounts: Option<OwnedFd>,
}

impl Namespace {
    /// Makes the namespace `gwlab-<name>` without IPv6 and without source address checks, with the usual
    /// ephemeral ports, and with forwarding if `forwards`. It sets all of these because a new namespace
    /// inherits the machine's settings.
    pub fn create(name: &str, forwards: bool) -> Result<Self> {
        let name = format!("{PREFIX}{name}");
        let path = Path::new(NAMES).join(&name);
        let net = on_new_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::create(&path)?;
            bind(Path::new("/proc/thread-self/ns/net"), &path)?;
            for (key, value) in [
                ("ipv6/conf/all/disable_ipv6", "1"),
                ("ipv6/conf/default/disable_ipv6", "1"),
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv4/ip_local_port_range", EPHEMERAL_PORTS),
                ("ipv4/ip_forward", if forwards { "1" } else { "0" }),
            ] {
                write_sysctl(key, value)?;
            }
            Ok(OwnedFd::from(File::open(&path)?))
        })
        .with_context(|| format!("cannot make the network namespace {name}"))?;
        Ok(Self { name, net, mounts: None })
    }

    /// Turns IPv6 on for interfaces that are added later. Addresses are usable at once, without duplicate
    /// address detection; router solicitation and advertisements are off.
    pub fn with_ipv6(self, forwards: bool) -> Result<Self> {
        for (key, value) in [
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv6/conf/default/accept_ra", "0"),
            ("ipv6/conf/default/router_solicitations", "0"),
            ("ipv6/conf/all/forwarding", if forwards { "1" } else { "0" }),
            ("ipv6/conf/all/disable_ipv6", "0"),
        ] {
            self.set_sysctl(key, value)?;
        }
        Ok(self)
    }

    /// Gives the namespace a `/run` of its own: the directory `run` of the other namespaces. Mounts that
    /// exist below `run`, and the names of existing namespaces, stay visible in it.
    pub fn with_private_run(mut self, run: &Path) -> Result<Self> {
        let names = run.join("netns");
        fs::create_dir_all(&names)?;
        let mounts = on_new_thread(|| {
            unshare(CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
            let whole = MsFlags::MS_BIND | MsFlags::MS_REC;
            mount(Some(NAMES), &names, None::<&str>, whole, None::<&str>)?;
            mount(Some(run), "/run", None::<&str>, whole, None::<&str>)?;
            Ok(OwnedFd::from(File::open("/proc/thread-self/ns/mnt")?))
        })
        .with_context(|| format!("cannot give {} a private /run", self.name))?;
        self.mounts = Some(mounts);
        Ok(self)
    }

    /// Returns the full name, as `ip netns exec` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns a command that runs in this namespace.
    pub fn command(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = Command::new(program.into());
        let net = self.net.as_raw_fd();
        let mounts = self.mounts.as_ref().map(AsRawFd::as_raw_fd);
        // SAFETY: the closure only makes setns system calls, which is allowed between fork and exec. The
        // child has copies of both descriptors, which `self` keeps open until the spawn; a closed one fails
        // with EBADF.
        unsafe {
            command.pre_exec(move || {
                setns(BorrowedFd::borrow_raw(net), CloneFlags::CLONE_NEWNET)?;
                if let Some(mounts) = mounts {
                    setns(BorrowedFd::borrow_raw(mounts), CloneFlags::CLONE_NEWNS)?;
                }
                Ok(())
            })
        };
        command
    }

    /// Runs `work` on a thread inside the namespace, with its `/run`. Sockets that it opens stay in the
    /// namespace.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_new_thread(|| {
            setns(&self.net, CloneFlags::CLONE_NEWNET)?;
            if let Some(mounts) = &self.mounts {
                // Threads share root and working directory, and setns refuses another mount namespace to a
                // thread that does.
                unshare(CloneFlags::CLONE_FS)?;
                setns(mounts, CloneFlags::CLONE_NEWNS)?;
            }
            work()
        })
        .with_context(|| format!("in the namespace {}", self.name))
    }

    /// Removes the name, and with it the namespace unless a process is in it.
    pub fn remove(self) -> Result<()> {
        let path = Path::new(NAMES).join(&self.name);
        let context = || format!("cannot remove {}", path.display());
        umount2(&path, MntFlags::MNT_DETACH).with_context(context)?;
        fs::remove_file(&path).with_context(context)
    }

    /// Sets `/proc/sys/net/<key>` of this namespace.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        self.enter(|| write_sysctl(key, value))
    }
}

/// Bind-mounts `from` on `to`, which must exist.
pub fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot bind {} to {}", from.display(), to.display()))
}

/// Runs `work` on a thread that then ends, because setns and unshare change the calling thread for good.
fn on_new_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(anyhow!("a thread in a namespace panicked")))
}

fn write_sysctl(key: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(key);
    // A kernel without IPv6 has nothing to set.
    if key.starts_with("ipv6") && !path.exists() {
        return Ok(());
    }
    fs::write(&path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
}
