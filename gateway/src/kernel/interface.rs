//! Network interfaces: index, addresses, MTU, forwarding, GRO.
use std::{
    ffi::CString,
    fs, mem,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    path::Path,
};

use anyhow::{Context, Result, bail};
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};

/// The kernel's switch for forwarding IPv6 packets, wherever they arrive: `ip6_forward` in net/ipv6/ip6_output.c. Linux
/// 6.17 has `force_forwarding` beside it, for each interface.
const FORWARDING6: &str = "/proc/sys/net/ipv6/conf/all/forwarding";
/// The settings of interfaces by family. `default` is what an interface made later starts with.
const SETTINGS4: &str = "/proc/sys/net/ipv4/conf";
const SETTINGS6: &str = "/proc/sys/net/ipv6/conf";

/// The current state of an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index, which changes when the interface is recreated.
    pub index: u32,
    /// Its MTU: the largest IP packet it takes, in bytes.
    pub mtu: u32,
    /// Its IPv4 addresses, sorted.
    pub v4: Vec<Ipv4Addr>,
    /// Its IPv6 addresses, the link-local one too, sorted.
    pub v6: Vec<Ipv6Addr>,
}

impl Interface {
    /// Reads the interface of this name in this thread's network namespace.
    pub fn look(name: &str) -> Result<Self> {
        let index = if_nametoindex(name).with_context(|| format!("there is no network interface {name}"))?;
        let addresses = getifaddrs()
            .context("list the addresses of network interfaces")?
            .filter(|entry| entry.interface_name == name)
            .filter_map(|entry| entry.address);
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for address in addresses {
            v4.extend(address.as_sockaddr_in().map(|address| address.ip()));
            v6.extend(address.as_sockaddr_in6().map(|address| address.ip()));
        }
        v4.sort();
        v4.dedup();
        v6.sort();
        v6.dedup();
        Ok(Self { name: name.to_owned(), index, mtu: mtu(name)?, v4, v6 })
    }

    /// Returns true if it has an address that is reachable from beyond the link.
    pub fn is_routable(&self) -> bool {
        let link_local = |address: &Ipv6Addr| address.is_unicast_link_local();
        !self.v4.is_empty() || !self.v6.iter().all(link_local)
    }
}

/// Turns forwarding of IPv4 packets that arrive on an interface on or off.
pub fn set_forwarding(name: &str, on: bool) -> Result<()> {
    write(&format!("{SETTINGS4}/{name}/forwarding"), on)
}

/// Returns true if the kernel forwards IPv4 packets that arrive on an interface.
pub fn forwarding(name: &str) -> Result<bool> {
    read(&format!("{SETTINGS4}/{name}/forwarding"))
}

/// Turns forwarding of IPv6 packets that arrive on an interface on or off. An older kernel has one switch for all
/// interfaces, and only there an interface made anew forwards as well.
pub fn set_forwarding6(name: &str, on: bool) -> Result<()> {
    if !on && !has_ipv6() {
        return Ok(());
    }
    match force6(name) {
        Some(force) => {
            write(FORWARDING6, false)?;
            // `bpf_fib_lookup` looks at this one (net/core/filter.c, `bpf_ipv6_fib_lookup`).
            write(&format!("{SETTINGS6}/{name}/forwarding"), on)?;
            write(&force, on)
        }
        None => write(FORWARDING6, on),
    }
}

/// Returns true if forwarding of IPv6 packets is as [`set_forwarding6`] leaves it.
pub fn is_forwarding6(name: &str, on: bool) -> Result<bool> {
    if !has_ipv6() {
        return Ok(!on);
    }
    let all = read(FORWARDING6)?;
    Ok(match force6(name) {
        Some(force) => !all && read(&force)? == on && read(&format!("{SETTINGS6}/{name}/forwarding"))? == on,
        None => all == on,
    })
}

/// Has interfaces that are made from now on forward nothing until they are told to.
pub fn stop_forwarding_by_default() -> Result<()> {
    for (settings, switch) in
        [(SETTINGS4, "forwarding"), (SETTINGS6, "forwarding"), (SETTINGS6, "force_forwarding")]
    {
        let path = format!("{settings}/default/{switch}");
        if Path::new(&path).exists() && read(&path)? {
            write(&path, false)?;
        }
    }
    Ok(())
}

/// Turns all forwarding off, on every interface. Tries every switch, and returns the first error.
pub fn stop_forwarding() -> Result<()> {
    let mut stopped = if has_ipv6() { write(FORWARDING6, false) } else { Ok(()) };
    for (settings, switch) in [(SETTINGS4, "forwarding"), (SETTINGS6, "force_forwarding")] {
        if !Path::new(settings).exists() {
            continue;
        }
        for entry in fs::read_dir(settings).with_context(|| format!("read {settings}"))? {
            let path = entry?.path().join(switch);
            match write(&path.to_string_lossy(), false) {
                // The interface is gone meanwhile, or the kernel is older.
                Err(_) if !path.exists() => {}
                result => stopped = stopped.and(result),
            }
        }
    }
    stopped
}

/// Returns the path of an interface's own switch for IPv6, if the kernel has one.
fn force6(name: &str) -> Option<String> {
    Some(format!("{SETTINGS6}/{name}/force_forwarding")).filter(|path| Path::new(path).exists())
}

/// Turns GRO off. Needed where no native XDP program can tag frames with their tunnel
/// (docs/facts.md: gro-merges-tunnels).
pub fn turn_gro_off(name: &str) -> Result<()> {
    // linux/ethtool.h and linux/sockios.h.
    const ETHTOOL_SGRO: u32 = 0x2c;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    #[repr(C)]
    struct EthtoolValue {
        command: u32,
        data: u32,
    }
    let mut value = EthtoolValue { command: ETHTOOL_SGRO, data: 0 };
    let mut request = request(name)?;
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: the `value` that `request` points to lives until the call returns and has the layout that
    // SIOCETHTOOL expects.
    unsafe { control(SIOCETHTOOL, &mut request) }.with_context(|| format!("turn GRO off on {name}"))
}

fn mtu(name: &str) -> Result<u32> {
    let mut request = request(name)?;
    // SAFETY: SIOCGIFMTU reads the name and writes `ifru_mtu` (netdevice(7)); the request holds no pointer.
    unsafe { control(libc::SIOCGIFMTU, &mut request) }.with_context(|| format!("read the MTU of {name}"))?;
    // SAFETY: just written; any bits are a valid integer.
    let mtu = unsafe { request.ifr_ifru.ifru_mtu };
    u32::try_from(mtu).with_context(|| format!("the MTU of {name} is {mtu}, which is negative"))
}

/// Returns an empty request for an interface.
fn request(name: &str) -> Result<libc::ifreq> {
    let name = CString::new(name)?;
    if name.as_bytes_with_nul().len() > libc::IFNAMSIZ {
        bail!("the interface name {name:?} is too long");
    }
    // SAFETY: zero is a valid ifreq, a C structure of integers and pointers.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes_with_nul()) {
        *to = *from as libc::c_char;
    }
    Ok(request)
}

/// Passes a request to the kernel.
///
/// # Safety
/// `request` must point to what `command` expects, alive until the call returns.
unsafe fn control(command: libc::c_ulong, request: &mut libc::ifreq) -> Result<()> {
    // SAFETY: no pointers are passed; the descriptor is checked before it is owned.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(std::io::Error::last_os_error()).context("open a socket");
    }
    // SAFETY: just opened; nothing else owns it.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: guaranteed by the caller.
    if unsafe { libc::ioctl(socket.as_raw_fd(), command, request as *mut libc::ifreq) } < 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(())
}

fn has_ipv6() -> bool {
    Path::new(FORWARDING6).exists()
}

fn write(path: &str, on: bool) -> Result<()> {
    fs::write(path, if on { "1" } else { "0" }).with_context(|| format!("write {path}"))
}

fn read(path: &str) -> Result<bool> {
    Ok(fs::read_to_string(path).with_context(|| format!("read {path}"))?.trim() != "0")
}
