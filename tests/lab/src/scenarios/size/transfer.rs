//! Transfers of data through the tunnel, and the MSS that makes them fit.
use anyhow::{Context, Result, ensure};
use etherparse::TcpOptionElement;

use super::ground::{
    BULK_BYTES, LINK_MTU, TCP_HEADER_BYTES, ensure_no_drops, server_of, transfer, tunnel_mtu,
};
use crate::{
    capture::{Capture, Frame, Segment},
    device::Connection,
    lab::{Lab, Site, in_parallel},
    site::Ends,
};

/// Both ends offer the MSS of their links, and each receives no more than the tunnel holds, and not much
/// less.
pub fn mss_fits(lab: &mut Lab) -> Result<()> {
    for (site, ends) in families(lab) {
        let (device, server) =
            (Capture::start(site.device, "eth0")?, Capture::start(server_of(lab, site)?, "eth0")?);
        Connection::open(site.device, ends.server)?.get("/mss")?;
        let (at_device, at_server) = (device.stop()?, server.stop()?);
        let headers = ip_tcp_headers(ends);
        let fits = tunnel_mtu(site.spec, LINK_MTU) - headers;
        for (what, sent, received, ack) in
            [("SYN", &at_device, &at_server, false), ("SYN-ACK", &at_server, &at_device, true)]
        {
            let offered = mss(sent, true, ack).with_context(|| format!("no {what} was sent"))?;
            let told = mss(received, false, ack).with_context(|| format!("no {what} arrived"))?;
            let name = format!("{} with {}", site.spec.full_name(), ends.server);
            ensure!(offered == LINK_MTU - headers, "{name}'s {what} offers {offered} bytes");
            ensure!(
                (fits - 64..=fits).contains(&told),
                "{name}'s tunnel holds segments of {fits} bytes, the {what} arrives with {told}"
            );
        }
    }
    Ok(())
}

/// Returns the MSS option of the only SYN or SYN-ACK.
fn mss(frames: &[Frame], outgoing: bool, ack: bool) -> Option<usize> {
    let mut segments = frames.iter().filter(|frame| frame.outgoing == outgoing).filter_map(Frame::segment);
    let syn: Segment = segments.find(|segment| segment.header.syn && segment.header.ack == ack)?;
    syn.header.options_iterator().find_map(|option| match option {
        Ok(TcpOptionElement::MaximumSegmentSize(bytes)) => Some(usize::from(bytes)),
        _ => None,
    })
}

/// Transfers in one direction after the other, then in both at once.
pub fn bulk_transfers(lab: &mut Lab) -> Result<()> {
    let before = lab.drops()?;
    for (site, ends) in families(lab) {
        transfer(site, ends)?;
    }
    in_parallel(families(lab), |(site, ends)| {
        in_parallel(vec![true, false], |up| {
            let mut connection = Connection::open(site.device, ends.server)?;
            if up { connection.upload(BULK_BYTES) } else { connection.download(BULK_BYTES) }
                .with_context(|| format!("{} with {}, all in parallel", site.spec.full_name(), ends.server))
        })
    })?;
    ensure_no_drops(lab, &before)
}

/// Returns every site with the ends of each of its families.
fn families(lab: &Lab) -> Vec<(Site<'_>, Ends)> {
    let sites = lab.sites().into_iter();
    sites.flat_map(|site| site.spec.ends().into_iter().map(move |ends| (site, ends))).collect()
}

/// Returns the bytes of the IP and TCP headers without options.
fn ip_tcp_headers(ends: Ends) -> usize {
    TCP_HEADER_BYTES + if ends.server.is_ipv4() { 20 } else { 40 }
}
