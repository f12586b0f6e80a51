//! `gatewayctl pki list`: what expires when, what is revoked, and how old the CRLs are.
use gateway_pki::{AuthorityRecord, Pki, Record, Revocation, Role, State, utc};
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::{
    report::{Part, Report},
    table::Table,
};

/// From here on the end of a certificate is near.
const SOON_DAYS: i64 = 30;
/// From here on the end of a CRL is near.
const CRL_SOON_DAYS: i64 = 7;

/// Reports all certificates, the next to expire first.
pub fn report(pki: &Pki, now: OffsetDateTime) -> Report {
    let mut table = Table::new(["name", "kind", "state", "expires", "days left", "identity", "serial"])
        .droppable(["serial", "identity", "days left", "kind"]);
    let mut rows = Vec::new();
    let authorities =
        pki.authorities().iter().map(|authority| (authority.period().1, authority_row(authority, now)));
    let certificates = pki.certificates().iter().map(|record| (record.period().1, record_row(record, now)));
    let mut all: Vec<(OffsetDateTime, Value)> = authorities.chain(certificates).collect();
    all.sort_by_key(|(until, _)| *until);
    for (until, row) in all {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let left = days_left(until, now);
        let soon = text("state") == State::Valid.name() && left < SOON_DAYS;
        table.add_row([
            text("name"),
            text("kind"),
            if soon { "expires soon".to_owned() } else { text("state") },
            until.date().to_string(),
            left.to_string(),
            text("identity"),
            text("serial"),
        ]);
        rows.push(row);
    }
    let crls = pki.authorities().iter().map(|authority| Part::Line(crl_line(authority, pki.signer(), now)));
    let strays = pki.strays();
    let warnings = strays.iter().map(|path| {
        Part::Line(format!(
            "warning: {} is not in the index: a crash left it, and nobody has it; or the index is an old copy",
            path.display()
        ))
    });
    let parts = std::iter::once(Part::Table(table)).chain(crls).chain(warnings).collect();
    let crls: Vec<Value> = pki.authorities().iter().map(crl_json).collect();
    Report { json: json!({ "certificates": rows, "crls": crls, "not_in_index": strays }), parts }
}

/// Returns the fields of a gateway's or site's certificate.
pub fn record_row(record: &Record, now: OffsetDateTime) -> Value {
    let (from, until) = record.period();
    json!({
        "name": record.name.as_str(), "kind": record.kind.name(), "identity": record.identity.to_string(),
        "serial": record.serial.to_string(), "issuer": record.issuer.name(),
        "from": rfc3339(from), "until": rfc3339(until), "days_left": days_left(until, now),
        "state": record.state(now).name(), "key": record.key.name(), "sha256": record.sha256,
        "revoked": record.revoked.map(revocation),
    })
}

/// Returns the fields of an authority's certificate.
pub fn authority_row(authority: &AuthorityRecord, now: OffsetDateTime) -> Value {
    let (from, until) = authority.period();
    json!({
        "name": authority.role.name(), "kind": "authority", "identity": Value::Null,
        "serial": authority.serial.to_string(),
        "from": rfc3339(from), "until": rfc3339(until), "days_left": days_left(until, now),
        "state": authority.state(now).name(), "revoked": authority.revoked.map(revocation),
    })
}

fn revocation(revocation: Revocation) -> Value {
    json!({ "at": rfc3339(revocation.time()), "reason": revocation.reason.name() })
}

fn crl_json(authority: &AuthorityRecord) -> Value {
    let (from, until) = authority.crl_period();
    json!({
        "authority": authority.role.name(), "number": authority.crl_number,
        "from": rfc3339(from), "until": rfc3339(until),
    })
}

fn crl_line(authority: &AuthorityRecord, signer: Role, now: OffsetDateTime) -> String {
    let until = authority.crl_period().1;
    let command = if authority.role == signer { "revoke" } else { "revoke --root" };
    let hint = match days_left(until, now) {
        _ if now > until => format!(", which is over: make a new one with `gatewayctl pki {command}`"),
        left if left < CRL_SOON_DAYS => {
            format!(", which is soon: make a new one with `gatewayctl pki {command}`")
        }
        _ => String::new(),
    };
    format!("CRL of {}: number {}, until {}{hint}", authority.role, authority.crl_number, utc(until))
}

fn days_left(until: OffsetDateTime, now: OffsetDateTime) -> i64 {
    (until - now).whole_days()
}

/// Returns text such as `2027-01-31T12:00:00Z`.
pub fn rfc3339(time: OffsetDateTime) -> String {
    time.format(&Rfc3339).unwrap_or_else(|_| utc(time))
}

#[cfg(test)]
mod tests {
    use gateway_pki::{Clock, Kind, NewAuthority, NewCertificate};
    use ring::rand::SystemRandom;
    use time::Duration;

    use super::*;
    use crate::report::Format;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-29 10:00 UTC);

    /// Returns the list of an authority with certificates for these identities, at some time after they were issued.
    fn listed(identities: &[&str], later: Duration) -> Report {
        let directory = tempfile::tempdir().unwrap();
        let folder = directory.path().join("pki");
        let new = NewAuthority {
            name: "Acme",
            root_days: 3652,
            issuing_days: Some(1826),
            crl_days: 30,
            root_crl_days: 365,
            root_key: None,
            issuing_key: None,
            force: false,
        };
        gateway_pki::init(&folder, &new, NOW, &SystemRandom::new()).unwrap();
        let mut pki = Pki::change(&folder, Clock { now: NOW, trusted: false }).unwrap();
        let signer = pki.unlock(pki.signer(), None).unwrap();
        for (days, identity) in (300..).zip(identities) {
            let (kind, identity) = (Kind::Site, identity.parse().unwrap());
            let name = gateway_pki::Name::of(&identity).unwrap();
            let new = NewCertificate { kind, identity, name, days, force: false };
            pki.issue(&signer, &new, None, &SystemRandom::new()).unwrap();
        }
        report(&pki, NOW + later)
    }

    fn text(report: &Report, width: usize) -> String {
        report.render(Format::Text(Some(width))).unwrap()
    }

    #[test]
    fn table_fits_60_columns() {
        let longest = format!("{}.{}.example", "a".repeat(60), "b".repeat(55));
        let text = text(&listed(&[&longest, "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"], Duration::ZERO), 60);
        let table = text.lines().filter(|line| !line.starts_with("CRL"));
        assert!(table.clone().all(|line| line.chars().count() <= 60), "{text}");
        assert!(text.contains("expires") && text.contains("valid"), "{text}");
    }

    #[test]
    fn next_to_expire_comes_first_and_is_warned_of() {
        let report = listed(&["a.example", "b.example"], Duration::days(271));
        let shown = text(&report, 200);
        let lines: Vec<&str> = shown.lines().skip(1).map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(lines[..4], ["a.example", "b.example", "issuing", "root"], "{shown}");
        assert!(shown.lines().nth(1).unwrap().contains("expires soon"), "{shown}");
        assert!(shown.lines().nth(2).unwrap().contains("valid"), "{shown}");
        assert_eq!(report.json["certificates"][0]["days_left"], 29);
        assert_eq!(report.json["certificates"][0]["until"], "2027-09-25T10:00:00Z");
    }

    #[test]
    fn crl_that_is_or_gets_too_old_is_warned_of() {
        for (days, hint) in [(22, ""), (24, "which is soon"), (31, "which is over")] {
            let shown = text(&listed(&[], Duration::days(days)), 200);
            let line = shown.lines().find(|line| line.starts_with("CRL of issuing")).unwrap();
            assert_eq!(
                line.contains("make a new one with `gatewayctl pki revoke`"),
                !hint.is_empty(),
                "{line}"
            );
            assert!(line.contains(hint), "{line}");
            assert!(
                !shown.lines().any(|line| line.starts_with("CRL of root") && line.contains("make")),
                "{shown}"
            );
        }
        let shown = text(&listed(&[], Duration::days(366)), 200);
        assert!(shown.contains("make a new one with `gatewayctl pki revoke --root`"), "{shown}");
    }
}
