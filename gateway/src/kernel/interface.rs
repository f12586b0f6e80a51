//! Network interfaces: index, addresses, forwarding, GRO.
use std::{
    ffi::CString,
    fs, mem,
    net::Ipv4Addr,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use anyhow::{Context, Result, bail};
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex};

/// An interface as it is now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index, which changes when it is made anew.
    pub index: u32,
    /// Its IPv4 addresses, sorted.
    pub addresses: Vec<Ipv4Addr>,
}

impl Interface {
    /// Looks at the interface of this name in this thread's network namespace.
    pub fn look(name: &str) -> Result<Self> {
        let index = if_nametoindex(name).with_context(|| format!("there is no network interface {name}"))?;
        let mut addresses: Vec<Ipv4Addr> = getifaddrs()
            .context("list the addresses of network interfaces")?
            .filter(|entry| entry.interface_name == name)
            .filter_map(|entry| Some(entry.address?.as_sockaddr_in()?.ip()))
            .collect();
        addresses.sort();
        addresses.dedup();
        Ok(Self { name: name.to_owned(), index, addresses })
    }
}

/// Lets the kernel forward IPv4 packets that arrive on an interface, or not.
pub fn set_forwarding(name: &str, on: bool) -> Result<()> {
    let path = format!("/proc/sys/net/ipv4/conf/{name}/forwarding");
    fs::write(&path, if on { "1" } else { "0" }).with_context(|| format!("write {path}"))
}

/// Whether the kernel forwards IPv4 packets that arrive on an interface.
pub fn forwarding(name: &str) -> Result<bool> {
    let path = format!("/proc/sys/net/ipv4/conf/{name}/forwarding");
    Ok(fs::read_to_string(&path).with_context(|| format!("read {path}"))?.trim() != "0")
}

/// Lets the kernel forward nothing, whatever interfaces there are.
pub fn stop_forwarding() -> Result<()> {
    const ALL: &str = "/proc/sys/net/ipv4/conf";
    for entry in fs::read_dir(ALL).with_context(|| format!("read {ALL}"))? {
        let name = entry?.file_name();
        match set_forwarding(&name.to_string_lossy(), false) {
            // Gone meanwhile.
            Err(_) if !std::path::Path::new(ALL).join(&name).exists() => {}
            result => result?,
        }
    }
    Ok(())
}

/// Turns GRO off: needed where native XDP cannot keep tunnels apart (FACTS 8).
pub fn turn_gro_off(name: &str) -> Result<()> {
    // linux/ethtool.h and linux/sockios.h.
    const ETHTOOL_SGRO: u32 = 0x2c;
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    #[repr(C)]
    struct EthtoolValue {
        command: u32,
        data: u32,
    }
    let name = CString::new(name)?;
    if name.as_bytes_with_nul().len() > libc::IFNAMSIZ {
        bail!("the interface name {name:?} is too long");
    }
    let mut value = EthtoolValue { command: ETHTOOL_SGRO, data: 0 };
    // SAFETY: zero is a valid ifreq, a C structure of integers and pointers.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.as_bytes_with_nul()) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: no pointers are passed; the descriptor is checked before it is owned.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        bail!("open a socket: {}", std::io::Error::last_os_error());
    }
    // SAFETY: just opened, owned by nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: `request` and the `value` it points to live until the call returns, in the layout
    // that SIOCETHTOOL takes.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
        bail!("turn GRO off on {name:?}: {}", std::io::Error::last_os_error());
    }
    Ok(())
}
