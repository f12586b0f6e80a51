//! Captures of a link's traffic: a packet socket and a thread that collects frames.
use std::{
    mem,
    net::IpAddr,
    os::fd::{AsRawFd, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use etherparse::{NetSlice, SlicedPacket, TcpHeader, TransportSlice};
use gateway_tests_kit::{namespace::Namespace, process::wait_for, raw::packet_socket};
use nix::{
    errno::Errno,
    libc,
    sys::{
        socket::{LinkAddr, recvfrom, setsockopt, sockopt::RcvBufForce, sockopt::ReceiveTimeout},
        time::TimeVal,
    },
};

use crate::frame::{Packet, tcp_as_captured};

/// Read timeout of the reader: how soon it notices a stop.
const POLL: TimeVal = TimeVal::new(0, 20_000);
/// Receive buffer, large enough for a burst while the reader is not scheduled.
const BUFFER_BYTES: usize = 64 << 20;
const UDP: u8 = 17;
const ESP: u8 = 50;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;

/// A running capture. Dropping it stops it.
#[derive(Debug)]
pub struct Capture {
    /// Namespace and interface, for messages: `gwlab-acme-server eth0`.
    pub place: String,
    seen: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<Result<()>>>,
}

/// One frame, from the Ethernet header on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// True if this end of the link sent it.
    pub outgoing: bool,
    /// All bytes; segments merged by offloading are one frame.
    pub bytes: Vec<u8>,
}

/// The parts of a TCP segment that the lab needs.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// The IPv4 header's identification, 0 in IPv6.
    pub identification: u16,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Header with options.
    pub header: TcpHeader,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Capture {
    /// Starts capturing on an interface. Every frame sent after this call returns is captured.
    pub fn start(namespace: &Namespace, interface: &str) -> Result<Self> {
        let socket = packet_socket(namespace, interface)?;
        setsockopt(&socket, ReceiveTimeout, &POLL)?;
        setsockopt(&socket, RcvBufForce, &BUFFER_BYTES)?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let reader = thread::spawn({
            let (seen, stop) = (seen.clone(), stop.clone());
            move || read(&socket, &seen, &stop)
        });
        Ok(Self { place: format!("{} {interface}", namespace.name()), seen, stop, reader: Some(reader) })
    }

    /// The frames captured so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a frame from which `pick` returns a value. `what` names the frame in errors.
    pub fn wait_for<T>(&self, what: &str, pick: impl Fn(&Frame) -> Option<T>) -> Result<T> {
        wait_for(&format!("{what} on {}", self.place), Duration::from_secs(5), || {
            Ok(self.frames().iter().find_map(&pick))
        })
    }

    /// Stops after reading the queued frames and returns all frames captured. Fails if the kernel dropped
    /// any.
    pub fn stop(mut self) -> Result<Vec<Frame>> {
        self.stop.store(true, Ordering::Relaxed);
        let reader = self.reader.take().context("already stopped")?;
        reader.join().map_err(|_| anyhow!("the capture on {} panicked", self.place))??;
        Ok(std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Frame {
    /// Returns true if the frame is ARP.
    pub fn is_arp(&self) -> bool {
        self.bytes.get(12..14) == Some(&[0x08, 0x06])
    }

    /// Returns the protocol number of an IPv4 packet or the next header of an IPv6 packet.
    pub fn ip_protocol(&self) -> Option<u8> {
        self.bytes.get(if self.is_ipv4()? { 23 } else { 20 }).copied()
    }

    /// Returns source and destination of an IP packet.
    pub fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        let v4 = |at| Some(IpAddr::from(self.array::<4>(at)?));
        let v6 = |at| Some(IpAddr::from(self.array::<16>(at)?));
        match self.is_ipv4()? {
            true => Some((v4(26)?, v4(30)?)),
            false => Some((v6(22)?, v6(38)?)),
        }
    }

    /// Returns `N` bytes from offset `at` on.
    pub fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..at + N)?.try_into().ok()
    }

    /// Returns the bytes after the fixed IP header, including IPv4 options and extension headers.
    pub fn payload(&self) -> Option<&[u8]> {
        self.bytes.get(ETHERNET_BYTES + if self.is_ipv4()? { IPV4_BYTES } else { IPV6_BYTES }..)
    }

    /// Returns `None` if the frame is neither IPv4 nor IPv6.
    fn is_ipv4(&self) -> Option<bool> {
        match self.bytes.get(12..14)? {
            [0x08, 0x00] => Some(true),
            [0x86, 0xdd] => Some(false),
            _ => None,
        }
    }

    /// Returns the TCP segment, if the frame is one.
    pub fn segment(&self) -> Option<Segment> {
        let packet = SlicedPacket::from_ethernet(&self.bytes).ok()?;
        let Some(TransportSlice::Tcp(tcp)) = packet.transport else { return None };
        let identification = match packet.net? {
            NetSlice::Ipv4(ip) => ip.header().identification(),
            _ => 0,
        };
        let (source, destination) = self.addresses()?;
        Some(Segment {
            identification,
            source,
            destination,
            header: tcp.to_header(),
            payload: tcp.payload().to_vec(),
        })
    }

    /// Returns true for a link's own traffic: ARP, neighbour discovery except redirects (RFC 4861, hop limit
    /// 255), multicast listener messages (RFC 3810, hop limit 1).
    pub fn is_link_control(&self) -> bool {
        let kind = |at: usize| self.payload().and_then(|payload| payload.get(at)).copied();
        let hop_limit = self.bytes.get(21).copied();
        self.is_arp()
            || match (self.is_ipv4(), self.ip_protocol()) {
                (Some(false), Some(ICMPV6)) => matches!(kind(0), Some(133..=136)) && hop_limit == Some(255),
                (Some(false), Some(HOP_BY_HOP)) => {
                    let listener = matches!(kind(8), Some(130..=132 | 143));
                    listener && kind(0) == Some(ICMPV6) && hop_limit == Some(1)
                }
                _ => false,
            }
    }

    /// Returns true if the gateway may send the frame to the internet: link control, ESP, IKE, and both in
    /// UDP 4500.
    pub fn is_link_control_or_ipsec(&self) -> bool {
        let ports = self.payload().unwrap_or_default();
        let ike = [[1, 0xf4], [0x11, 0x94]];
        self.is_link_control()
            || match self.ip_protocol() {
                Some(ESP) => true,
                Some(UDP) => ike.iter().any(|port| ports.starts_with(port)),
                _ => false,
            }
    }

    /// Returns true for an ESP packet that arrived at this end.
    pub fn is_esp_in(&self) -> bool {
        !self.outgoing && self.ip_protocol() == Some(ESP)
    }

    /// Describes the frame in one line.
    pub fn describe(&self) -> String {
        match (self.addresses(), self.segment()) {
            (Some((source, destination)), Some(segment)) => format!(
                "TCP {source}:{} to {destination}:{}, {} bytes",
                segment.header.source_port,
                segment.header.destination_port,
                segment.payload.len()
            ),
            (Some((source, destination)), None) => {
                format!("IP protocol {} {source} to {destination}", self.ip_protocol().unwrap_or_default())
            }
            (None, _) => format!("a frame of {} bytes", self.bytes.len()),
        }
    }
}

impl Segment {
    /// Returns the segment that would follow in the connection, with this payload. Header and options are
    /// equal, so GRO sees two segments of one flow.
    pub fn next(&self, payload: &[u8]) -> Self {
        let length = u32::try_from(self.payload.len()).expect("a segment is short");
        let mut next = Self {
            identification: self.identification.wrapping_add(1),
            payload: payload.to_vec(),
            ..self.clone()
        };
        next.header.sequence_number = self.header.sequence_number.wrapping_add(length);
        next
    }

    /// Builds the packet, with fresh checksums.
    pub fn to_packet(&self) -> Packet {
        let addresses = (self.source, self.destination);
        tcp_as_captured(addresses, self.identification, &self.header, &self.payload)
    }
}

fn read(socket: &OwnedFd, seen: &Mutex<Vec<Frame>>, stop: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; 1 << 17];
    loop {
        // Load before receiving: everything sent before the stop is still read.
        let last = stop.load(Ordering::Relaxed);
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer) {
            Ok((length, from)) => {
                let from: LinkAddr = from.context("a frame without an address")?;
                let outgoing = from.as_ref().sll_pkttype == libc::PACKET_OUTGOING;
                let frame = Frame { outgoing, bytes: buffer[..length].to_vec() };
                seen.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
            }
            Err(Errno::EAGAIN) if last => return ensure_complete(socket),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(error) => bail!("cannot read frames: {error}"),
        }
    }
}

/// Fails if the buffer overflowed: packet(7), PACKET_STATISTICS.
fn ensure_complete(socket: &OwnedFd) -> Result<()> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = mem::size_of_val(&statistics) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes, the size of `statistics`.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    Errno::result(got).context("cannot read a capture's statistics")?;
    ensure!(statistics.tp_drops == 0, "the capture lost {} frames", statistics.tp_drops);
    Ok(())
}
