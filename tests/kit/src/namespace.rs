//! Network namespaces with a name, and, where a daemon needs one, a private `/run`.
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

/// What every namespace of the lab is called with, so that they are recognised on a shared machine.
pub const PREFIX: &str = "gwlab-";

/// The ports that connections get by themselves, first and last. A packet that an attack makes up comes
/// from or goes to one below them, each attack's its own, so that it belongs to no connection there ever was.
const EPHEMERAL_PORTS: &str = "32768 60999";

/// Where `ip netns` looks for names.
const NAMES: &str = "/run/netns";

/// A network namespace, and optionally a mount namespace whose `/run` is a directory of its own.
///
/// It lives as long as this value, its name in `/run/netns`, or a process in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    net: OwnedFd,
    mounts: Option<OwnedFd>,
}

impl Namespace {
    /// Makes the namespace `gwlab-<name>`: no IPv6, no source address check, the usual ephemeral
    /// ports, and forwarding only where `forwards`. New namespaces would take these settings over from the machine.
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

    /// Turns IPv6 on, for interfaces to come. Addresses are usable at once, without duplicate address
    /// detection, and routers are neither asked nor listened to.
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

    /// Gives the namespace a `/run` of its own, which is the directory `run` seen from outside.
    /// What is already mounted below `run` stays visible in it, and so do the names of the namespaces
    /// made until now.
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

    /// The full name, as `ip netns exec` takes it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run in this namespace.
    pub fn command(&self, program: impl Into<PathBuf>) -> Command {
        let mut command = Command::new(program.into());
        let net = self.net.as_raw_fd();
        let mounts = self.mounts.as_ref().map(AsRawFd::as_raw_fd);
        // SAFETY: the closure only makes setns system calls, which is allowed between fork and exec,
        // and the child has copies of both descriptors, which `self` keeps open until it is spawned
        // (a closed one would fail with EBADF).
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

    /// Runs `work` on a thread inside the namespace, with its `/run`. A socket made there stays there.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_new_thread(|| {
            setns(&self.net, CloneFlags::CLONE_NEWNET)?;
            if let Some(mounts) = &self.mounts {
                // The threads of a process share root and working directory, which bars them from
                // another mount namespace.
                unshare(CloneFlags::CLONE_FS)?;
                setns(mounts, CloneFlags::CLONE_NEWNS)?;
            }
            work()
        })
        .with_context(|| format!("in the namespace {}", self.name))
    }

    /// Ends it, unless a process is in it.
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

/// Mounts `from` on `to`, which must exist.
pub fn bind(from: &Path, to: &Path) -> Result<()> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>)
        .with_context(|| format!("cannot bind {} to {}", from.display(), to.display()))
}

/// setns and unshare change the calling thread for good, so each runs on a thread that then ends.
fn on_new_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|_| Err(anyhow!("a thread of the lab panicked")))
}

fn write_sysctl(key: &str, value: &str) -> Result<()> {
    let path = Path::new("/proc/sys/net").join(key);
    // A kernel without IPv6 has nothing to turn off.
    if key.starts_with("ipv6") && !path.exists() {
        return Ok(());
    }
    fs::write(&path, value).with_context(|| format!("cannot write {value} to {}", path.display()))
}
