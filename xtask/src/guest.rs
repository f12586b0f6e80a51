//! The processes of a virtual machine whose / is this machine's, served read-only by virtiofsd. No process
//! outlives xtask, even if xtask is killed.
use std::{
    env, fs,
    io::Write as _,
    os::unix::{
        fs::{DirBuilderExt as _, PermissionsExt as _},
        net::UnixStream,
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    command::{command, find, quoted},
    kernel::Kernel,
    machine::Machine,
    terminal,
};

const INIT: &str = include_str!("guest-init.sh");
/// How long a helper may take to create its socket.
const HELPER_START: Duration = Duration::from_secs(20);
/// Serves / and every mount below it bound read-only: root in the guest could otherwise write through a
/// virtiofs mount of its own. The mounts live in a namespace that ends with virtiofsd.
const SERVE: &str = r#"
    set -e
    root=$1; shift
    mount --rbind / "$root"
    findmnt --raw --noheadings --submounts --output TARGET "$root" | while read -r mounted; do
        mounted=$(printf %b "$mounted")
        mount -o remount,bind,ro "$mounted" 2>/dev/null || [ "$mounted" != "$root" ]
    done
    exec "$@""#;

/// A running guest. Dropping it ends the guest and removes its files.
pub struct Guest {
    /// The guest sends `started`, and accepts `INT`, `TERM`, `HUP` and `size ROWS COLUMNS`.
    pub control: UnixStream,
    /// The command's output, and its input if it has a terminal.
    pub output: UnixStream,
    /// The mark that ends the output, see `stream`.
    pub end: String,
    qemu: Child,
    _virtiofsd: Helper,
    directory: Directory,
}

impl Guest {
    /// Boots a machine that runs `command` in our working directory.
    pub fn start(machine: &Machine, kernel: &Kernel, command: &[String], terminal: bool) -> Result<Self> {
        let directory = Directory::create()?;
        let end = format!("{:x}", unique());
        write_files(&directory.path, kernel, command, terminal, &end)?;
        let mut virtiofsd = serve(&directory.path)?;
        wait_for(&directory.path.join("fs.sock"), &mut virtiofsd.0, &directory.path)?;
        let mut qemu = boot(machine, kernel, &directory.path, terminal)?;
        let mut connect = |name: &str| {
            let path = directory.path.join(name);
            wait_for(&path, &mut qemu, &directory.path)?;
            UnixStream::connect(&path).with_context(|| format!("cannot reach QEMU at {}", path.display()))
        };
        // QEMU waits for both connections, in this order, before it starts the guest.
        let sockets = connect("control.sock").and_then(|control| Ok((control, connect("output.sock")?)));
        match sockets {
            Ok((control, output)) => {
                Ok(Self { control, output, end, qemu, _virtiofsd: virtiofsd, directory })
            }
            Err(error) => {
                drop(Helper(qemu));
                Err(error)
            }
        }
    }

    /// Returns true if QEMU has ended.
    pub fn is_dead(&mut self) -> bool {
        !matches!(self.qemu.try_wait(), Ok(None))
    }

    /// Returns the last lines of the guest's console and of the helpers' logs.
    pub fn last_words(&self) -> String {
        last_words(&self.directory.path)
    }
}

impl Drop for Guest {
    /// Kills QEMU; nothing is lost, since the guest writes to memory only.
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// A child that is killed when dropped.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The directory of one run; under /tmp, since a socket's path is limited to 108 bytes.
struct Directory {
    path: PathBuf,
    /// A shell that removes the directory when our end of its stdin closes, even by SIGKILL.
    remover: Child,
}

impl Directory {
    fn create() -> Result<Self> {
        let path = PathBuf::from(format!("/tmp/gateway-vm-{:x}", unique()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        let script = r#"trap "" INT TERM HUP; read -r _; exec rm -rf --one-file-system -- "$1""#;
        let remover = command("sh")
            .args(["-c", script, "sh"])
            .arg(&path)
            .stdin(Stdio::piped())
            .process_group(0)
            .spawn()
            .context("cannot start sh")?;
        fs::create_dir(path.join("root"))?;
        Ok(Self { path, remover })
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(self.remover.stdin.take());
        let _ = self.remover.wait();
    }
}

/// Writes the guest's init, and the files `env` and `command` that it reads.
fn write_files(
    directory: &Path,
    kernel: &Kernel,
    command: &[String],
    terminal: bool,
    end: &str,
) -> Result<()> {
    let (columns, rows) = terminal::size();
    let modules = kernel.modules.to_string_lossy();
    let variables = format!(
        "modules={} terminal={} rows={rows} columns={columns} end={end}\n",
        quoted(&modules),
        if terminal { "yes" } else { "no" },
    );
    fs::write(directory.join("env"), variables)?;

    let here = env::current_dir()?;
    let mut script = String::from(
        "#!/bin/sh\nexport PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8\n",
    );
    for name in ["CI", "NO_COLOR", "CLICOLOR_FORCE", "RUST_BACKTRACE", "RUST_LOG", "TERM"] {
        if let Ok(value) = env::var(name) {
            script += &format!("export {name}={}\n", quoted(&value));
        }
    }
    script += &format!("export COLUMNS={columns}\ncd {} || exit\nexec", quoted(&here.to_string_lossy()));
    for word in command {
        script += &format!(" {}", quoted(word));
    }
    executable(&directory.join("command"), &(script + "\n"))?;
    executable(&directory.join("init"), INIT)
}

fn executable(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    file.write_all(text.as_bytes())?;
    file.set_permissions(fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// Returns a command that dies with us and does not receive Ctrl-C from our terminal.
fn attached(program: &str) -> Command {
    let mut attached = command("setpriv");
    attached.args(["--pdeathsig", "KILL", "--", program]).stdin(Stdio::null()).process_group(0);
    attached
}

fn serve(directory: &Path) -> Result<Helper> {
    let root = directory.join("root");
    let log = fs::File::create(directory.join("virtiofsd.log"))?;
    let mut serve = attached("unshare");
    serve.args(["--mount", "sh", "-c", SERVE, "sh"]).arg(&root);
    let socket = format!("--socket-path={}/fs.sock", directory.display());
    if Path::new("/usr/lib/qemu/virtiofsd").exists() {
        // Shipped with QEMU up to version 7.
        let source = format!("source={}", root.display());
        serve.args(["/usr/lib/qemu/virtiofsd", &socket, "-o", &source]);
        serve.args(["-o", "cache=always", "-o", "sandbox=chroot", "-o", "no_posix_lock"]);
    } else {
        let program = find("virtiofsd").unwrap_or_else(|| "/usr/libexec/virtiofsd".into());
        serve.arg(program).arg(&socket).arg("--shared-dir").arg(&root);
        serve.args(["--cache", "always", "--sandbox", "chroot"]);
    }
    let child = serve.stdout(log.try_clone()?).stderr(log).spawn().context("cannot start virtiofsd")?;
    Ok(Helper(child))
}

fn boot(machine: &Machine, kernel: &Kernel, directory: &Path, terminal: bool) -> Result<Child> {
    let at = directory.display();
    let memory = format!("{}M", machine.memory_mib);
    let log = fs::File::create(directory.join("qemu.log"))?;
    let fixed_addresses = if machine.icount { "norandmaps" } else { "" };
    let append = format!(
        "root=host rootfstype=virtiofs ro init={at}/init vmdir={at} console=ttyS0 quiet loglevel=4 panic=-1 \
         mitigations=off random.trust_cpu=on tsc=reliable no_timer_check nokaslr apparmor=0 audit=0 {fixed_addresses}"
    );
    let mut qemu = attached("qemu-system-x86_64");
    qemu.args(["-accel", &machine.accelerator, "-cpu", "max", "-M", "q35", "-no-reboot"])
        .args(["-smp", &machine.cpus.to_string(), "-m", &memory])
        .args(["-display", "none", "-vga", "none", "-nodefaults", "-net", "none"])
        // virtiofsd shares the guest's memory.
        .args(["-object", &format!("memory-backend-memfd,id=memory,size={memory},share=on")])
        .args(["-numa", "node,memdev=memory"])
        .args(["-chardev", &format!("socket,id=fs,path={at}/fs.sock")])
        .args(["-device", "vhost-user-fs-pci,chardev=fs,tag=host,queue-size=1024"])
        .args(["-chardev", &format!("file,id=console,path={at}/console.log"), "-serial", "chardev:console"])
        .args(["-device", "virtio-serial-pci"])
        .args(["-chardev", &format!("socket,id=control,path={at}/control.sock,server=on,wait=on")])
        .args(["-chardev", &format!("socket,id=output,path={at}/output.sock,server=on,wait=on")]);
    if machine.icount {
        // Each instruction takes one nanosecond, and the clock does not stop while the guest is idle.
        qemu.args(["-icount", "shift=0,sleep=off"]);
    }
    // The first port becomes the console, hvc0.
    if terminal {
        qemu.args(["-device", "virtconsole,chardev=output"]);
    } else {
        qemu.args(["-device", "virtserialport,chardev=output,name=vm.output"]);
    }
    qemu.args(["-device", "virtserialport,chardev=control,name=vm.control"])
        .arg("-kernel")
        .arg(&kernel.image)
        .args(["-append", &append]);
    qemu.stdout(log.try_clone()?).stderr(log).spawn().context("cannot start QEMU")
}

/// Waits until a helper has created its socket.
fn wait_for(socket: &Path, helper: &mut Child, directory: &Path) -> Result<()> {
    let begun = Instant::now();
    while !socket.exists() {
        if let Some(status) = helper.try_wait()? {
            bail!("a helper process of the virtual machine ended ({status}):\n{}", last_words(directory));
        }
        if begun.elapsed() > HELPER_START {
            bail!("no {} after {HELPER_START:?}:\n{}", socket.display(), last_words(directory));
        }
        sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Returns the ends of the logs, few lines of the helpers' since those log normal operation too.
fn last_words(directory: &Path) -> String {
    const LOGS: [(&str, usize); 3] = [("console.log", 20), ("qemu.log", 3), ("virtiofsd.log", 3)];
    let mut words = String::new();
    for (name, count) in LOGS {
        let log = fs::read(directory.join(name)).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let relevant = |line: &&str| !line.trim().is_empty() && !line.contains("info: QEMU waiting");
        let mut tail: Vec<_> = log.lines().rev().filter(relevant).take(count).collect();
        tail.reverse();
        for line in tail {
            words += &format!("  {name}: {}\n", line.trim_end());
        }
    }
    words
}

/// Returns a number that no other run has.
fn unique() -> u128 {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    (time << 24) | u128::from(std::process::id() & 0xff_ffff)
}
