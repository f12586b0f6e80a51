//! A gateway with tunnels and no firewall, for `--without-gatewayd`: what the attacks do unhindered.
use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
};

use ::gateway::strongswan::{Child, Connection, Local, Remote, Revocation};
use anyhow::Result;
use ipnet::IpNet;

use super::{
    charon::Charon,
    namespace::Namespace,
    pki::{Authority, Issued},
    process::run_with_input,
    site::{GATEWAY_IDENTITY, SITES},
};

/// Loads a connection for each site and turns on forwarding. What comes from a server gets the mark
/// of the tunnel its destination is in, so that customers may have the same LAN (FACTS 5).
pub fn start(namespace: &Namespace, charon: &Charon, authority: &Authority, own: &Issued) -> Result<()> {
    for (id, site) in (1..).zip(&SITES) {
        let local =
            Local { identity: GATEWAY_IDENTITY.to_owned(), certificate: own.certificate_pem.clone().into() };
        let remote = Remote {
            identity: site.identity.to_owned(),
            authority: authority.certificate_pem().into(),
            revocation: Revocation::Relaxed,
        };
        let server = IpNet::from(IpAddr::from(site.server));
        let mut child = Child::new(site.full_name(), vec![server], vec![site.lan.parse()?]);
        child.reqid = Some(id);
        child.mark = Some(id);
        let mut connection = Connection::new(site.full_name(), local, remote);
        connection.children = vec![child];
        charon.load(&connection, &own.key_pem)?;
    }
    run_with_input(namespace.command("nft").args(["-f", "-"]), &marks())?;
    namespace.set_sysctl("ipv4/ip_forward", "1")
}

fn marks() -> String {
    let mut rules = String::new();
    for (mark, site) in (1_u32..).zip(&SITES) {
        let (server, lan): (Ipv4Addr, _) = (site.server, site.lan);
        writeln!(rules, "    iifname \"eth_lan\" ip saddr {server} ip daddr {lan} meta mark set {mark}")
            .expect("a String takes all");
    }
    format!(
        "table ip tunnel_marks {{
  chain prerouting {{
    type filter hook prerouting priority mangle
{rules}  }}
}}
"
    )
}
