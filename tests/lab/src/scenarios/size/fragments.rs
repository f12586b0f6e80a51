//! IP fragments of ESP and of IKE, which pass the gateway's filter and are put together by its kernel.
use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use gateway_common::reason::Reason;
use gateway_tests_kit::process::{output, wait_for};

use super::{
    super::tunnels::{PATIENCE, requests_arrive},
    ground::{BULK_BYTES, LINK_MTU, transfer, with_change},
};
use crate::{
    capture::{Capture, Frame},
    charon::IKE_FRAGMENT_BYTES,
    device,
    gateway::increase,
    lab::{Lab, place_gateway_keys},
    pki::Issued,
    site::{Ends, GATEWAY_IDENTITY, SITES},
    topology::next_hop,
};

/// MTU of a small uplink, in bytes, over IPv4 and over IPv6.
const SMALL_MTU: (usize, usize) = (600, 1280);

/// Devices without path-MTU discovery, behind uplinks too small for a large ESP packet: the gateway receives
/// those in fragments, of ESP and of UDP.
pub fn fragmented_esp(lab: &mut Lab) -> Result<()> {
    for site in
        lab.sites().into_iter().filter(|site| ["berlin", "austin", "london"].contains(&site.spec.name))
    {
        let before = lab.drops()?;
        let (family, small_mtu, default) = match site.spec.uplink_v6 {
            false => ("-4", SMALL_MTU.0, "0.0.0.0/0"),
            true => ("-6", SMALL_MTU.1, "::/0"),
        };
        let route = |mtu: usize| {
            let next_hop = next_hop(site.spec).to_string();
            let mtu = mtu.to_string();
            let change = [family, "route", "replace", default, "via", &next_hop, "mtu", &mtu];
            output(site.router.command("ip").args(change)).map(drop)
        };
        let seen = Capture::start(&lab.topology.internet, "gateway")?;
        with_change(
            || {
                site.device.set_sysctl("ipv4/ip_no_pmtu_disc", "1")?;
                route(small_mtu)
            },
            || {
                let answer = device::report_date(site.device, site.spec, site.spec.server.into())?;
                ensure!(answer.contains("received"), "the answer is {answer:?}");
                transfer(site, Ends { device: site.spec.device.into(), server: site.spec.server.into() })
            },
            || {
                site.device.set_sysctl("ipv4/ip_no_pmtu_disc", "0")?;
                route(LINK_MTU)
            },
        )
        .with_context(|| {
            format!(
                "{}; dropped: {:?}",
                site.spec.full_name(),
                lab.drops().map(|now| increase(&before, &now))
            )
        })?;
        let fragments = fragments(&seen.stop()?, true, if site.spec.behind_nat { UDP } else { ESP });
        ensure!(
            fragments.first > BULK_BYTES / LINK_MTU && fragments.later >= fragments.first,
            "the gateway received {fragments:?}"
        );
        wait_for("the gateway's reassembly queues to empty", PATIENCE, || has_no_fragments(lab))?;
        // On a busy machine the gateway loses a fragment now and then, and its kernel then tries to send
        // "fragment reassembly time exceeded" (RFC 792).
        let mut dropped = increase(&before, &lab.drops()?);
        dropped.remove(&("-".to_owned(), Reason::GatewayTrafficNotAllowed.name().to_owned()));
        ensure!(dropped.is_empty(), "dropped: {dropped:?}");
    }
    Ok(())
}

/// Returns `Some` once no packet waits for the rest of its fragments.
fn has_no_fragments(lab: &Lab) -> Result<Option<()>> {
    let read = |name| fs::read_to_string(Path::new("/proc/thread-self/net").join(name));
    let statistics = lab.topology.gateway.enter(|| Ok([read("sockstat")?, read("sockstat6")?].concat()))?;
    let none = |family| statistics.lines().any(|line| line.starts_with(&format!("{family}: inuse 0 ")));
    Ok((none("FRAG") && none("FRAG6")).then_some(()))
}

/// Both ends have certificates of several kilobytes and no IKE fragmentation, so that IP fragments their
/// messages.
pub fn fragmented_ike(lab: &mut Lab) -> Result<()> {
    const NEVER: u32 = 9000;
    let spec = &SITES[0];
    let drops_before = lab.drops()?;
    let (own, sites) = (lab.credentials.clone(), lab.authority.issue(spec.identity)?);
    let large = (lab.authority.issue_large(GATEWAY_IDENTITY)?, lab.authority.issue_large(spec.identity)?);
    with_change(
        || use_certificates(lab, &large.0, &large.1, NEVER),
        || {
            let both = wait_for("fragments of IKE from both ends", PATIENCE, || {
                let seen = Capture::start(&lab.topology.internet, "gateway")?;
                reconnect(lab, spec.name)?;
                let frames = seen.stop()?;
                let (to, from) = (fragments(&frames, true, UDP), fragments(&frames, false, UDP));
                // The gateway may not use its new certificate yet.
                Ok((to.is_whole() && from.is_whole()).then_some((to, from)))
            })
            .with_context(|| {
                format!("dropped: {:?}", lab.drops().map(|now| increase(&drops_before, &now)))
            })?;
            requests_arrive(lab).with_context(|| format!("{both:?}"))
        },
        || {
            use_certificates(lab, &own, &sites, IKE_FRAGMENT_BYTES)?;
            reconnect(lab, spec.name)
        },
    )?;
    let wrong: Vec<_> = increase(&drops_before, &lab.drops()?)
        .into_keys()
        .filter(|(_, reason)| reason != Reason::TunnelDown.name())
        .collect();
    ensure!(wrong.is_empty(), "dropped: {wrong:?}");
    Ok(())
}

/// Configures the gateway and the first site with these certificates, and both charons with this fragment
/// size.
fn use_certificates(lab: &Lab, gateways: &Issued, sites: &Issued, fragment_bytes: u32) -> Result<()> {
    let site = lab.sites()[0];
    lab.gateway().charon().set_fragment_bytes(&lab.topology.gateway, fragment_bytes)?;
    site.charon.set_fragment_bytes(site.router, fragment_bytes)?;
    lab.load_router(0, sites)?;
    place_gateway_keys(&lab.authority, gateways)?;
    lab.gateway().reload()?;
    lab.wait_for_status("gatewayd without failures", |status| {
        status.failed.is_empty() && status.charon.is_some()
    })
    .map(drop)
}

fn reconnect(lab: &Lab, name: &str) -> Result<()> {
    let site = lab.site(name)?;
    site.terminate()?;
    site.initiate()?;
    lab.wait_for_tunnels().map(drop)
}

const UDP: u8 = 17;
const ESP: u8 = 50;

/// Numbers of IP fragments.
#[derive(Debug, Clone, Copy, Default)]
struct Fragments {
    first: usize,
    later: usize,
}

impl Fragments {
    fn is_whole(self) -> bool {
        self.first > 0 && self.later > 0
    }
}

/// Counts fragments of this protocol to or from the gateway. The frames come from its next hop, where
/// outgoing means to the gateway.
fn fragments(frames: &[Frame], to_gateway: bool, protocol: u8) -> Fragments {
    let mut count = Fragments::default();
    for frame in frames.iter().filter(|frame| frame.outgoing == to_gateway) {
        if let Some((later, more)) = fragment(frame, protocol) {
            count.first += usize::from(!later && more);
            count.later += usize::from(later);
        }
    }
    count
}

/// Returns, for a packet of this protocol, if it is a later fragment, and if more fragments follow: RFC 791
/// section 3.1, RFC 8200 section 4.5. An unfragmented IPv6 packet is `None`.
fn fragment(frame: &Frame, protocol: u8) -> Option<(bool, bool)> {
    const FRAGMENT_HEADER: u8 = 44;
    match frame.ip_protocol()? {
        FRAGMENT_HEADER => {
            let &[next_header, _, high, low] = frame.payload()?.first_chunk()?;
            let bits = u16::from_be_bytes([high, low]);
            (next_header == protocol).then_some((bits & 0xfff8 != 0, bits & 1 != 0))
        }
        other if other == protocol && frame.addresses()?.0.is_ipv4() => {
            let bits = u16::from_be_bytes(frame.array(20)?);
            Some((bits & 0x1fff != 0, bits & 0x2000 != 0))
        }
        _ => None,
    }
}
