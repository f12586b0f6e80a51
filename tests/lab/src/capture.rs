//! What really was on a wire: a packet socket and a thread that keeps what it sees.
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

/// How long the reader sleeps in a read, so how soon it notices that it shall stop.
const POLL: TimeVal = TimeVal::new(0, 20_000);
/// Room for a burst while the reader is not scheduled.
const BUFFER_BYTES: usize = 64 << 20;
const UDP: u8 = 17;
const ESP: u8 = 50;
const ICMPV6: u8 = 58;
const HOP_BY_HOP: u8 = 0;
const ETHERNET_BYTES: usize = 14;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;

/// A capture that is running. Dropping it stops it.
#[derive(Debug)]
pub struct Capture {
    /// Where, for messages: `gwlab-acme-server eth0`.
    pub place: String,
    seen: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<Result<()>>>,
}

/// One frame, from the Ethernet header on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Whether this end of the link sent it.
    pub outgoing: bool,
    /// All its bytes; segments that offloading merged are one frame.
    pub bytes: Vec<u8>,
}

/// The parts of a TCP segment that the lab looks at.
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
    /// Starts capturing on an interface; what is sent after this call returns is seen.
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

    /// What was seen so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for a frame that `pick` makes something of.
    pub fn wait_for<T>(&self, what: &str, pick: impl Fn(&Frame) -> Option<T>) -> Result<T> {
        wait_for(&format!("{what} on {}", self.place), Duration::from_secs(5), || {
            Ok(self.frames().iter().find_map(&pick))
        })
    }

    /// Reads what is still queued, stops, and returns all that was seen. Fails if any was lost.
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
    /// Whether it is ARP.
    pub fn is_arp(&self) -> bool {
        self.bytes.get(12..14) == Some(&[0x08, 0x06])
    }

    /// The protocol number of an IPv4 packet, or an IPv6 packet's next header.
    pub fn ip_protocol(&self) -> Option<u8> {
        self.bytes.get(if self.is_ipv4()? { 23 } else { 20 }).copied()
    }

    /// Source and destination of an IP packet.
    pub fn addresses(&self) -> Option<(IpAddr, IpAddr)> {
        let v4 = |at| Some(IpAddr::from(self.array::<4>(at)?));
        let v6 = |at| Some(IpAddr::from(self.array::<16>(at)?));
        match self.is_ipv4()? {
            true => Some((v4(26)?, v4(30)?)),
            false => Some((v6(22)?, v6(38)?)),
        }
    }

    /// So many bytes, from this one on.
    pub fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..at + N)?.try_into().ok()
    }

    /// What follows the IP header, as far as it was seen: IPv4 options and extension headers included.
    pub fn payload(&self) -> Option<&[u8]> {
        self.bytes.get(ETHERNET_BYTES + if self.is_ipv4()? { IPV4_BYTES } else { IPV6_BYTES }..)
    }

    /// None if it is neither IPv4 nor IPv6.
    fn is_ipv4(&self) -> Option<bool> {
        match self.bytes.get(12..14)? {
            [0x08, 0x00] => Some(true),
            [0x86, 0xdd] => Some(false),
            _ => None,
        }
    }

    /// The segment, if it is one of TCP.
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

    /// Whether it is what neighbours on a link say to each other: ARP, neighbour discovery but for
    /// redirects (RFC 4861, with a hop limit of 255), multicast listener messages (RFC 3810, with one of 1).
    pub fn is_of_link(&self) -> bool {
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

    /// Whether the gateway may send it into the internet: what is said on a link, ESP, IKE, and both in
    /// UDP 4500.
    pub fn is_of_link_or_ipsec(&self) -> bool {
        let ports = self.payload().unwrap_or_default();
        let ike = [[1, 0xf4], [0x11, 0x94]];
        self.is_of_link()
            || match self.ip_protocol() {
                Some(ESP) => true,
                Some(UDP) => ike.iter().any(|port| ports.starts_with(port)),
                _ => false,
            }
    }

    /// Whether it is an ESP packet that arrived here.
    pub fn is_esp_in(&self) -> bool {
        !self.outgoing && self.ip_protocol() == Some(ESP)
    }

    /// One line for a person.
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
    /// The segment that would come next in the connection, with this payload: the same header and
    /// options, so that GRO finds nothing to tell the two apart.
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

    /// The packet, with new checksums.
    pub fn to_packet(&self) -> Packet {
        let addresses = (self.source, self.destination);
        tcp_as_captured(addresses, self.identification, &self.header, &self.payload)
    }
}

fn read(socket: &OwnedFd, seen: &Mutex<Vec<Frame>>, stop: &AtomicBool) -> Result<()> {
    let mut buffer = vec![0; 1 << 17];
    loop {
        // Read before the receive, so that everything sent before the stop is still read.
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

/// Fails if frames came that the buffer had no room for: packet(7), PACKET_STATISTICS.
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
    ensure!(statistics.tp_drops == 0, "the capture has lost {} frames", statistics.tp_drops);
    Ok(())
}
