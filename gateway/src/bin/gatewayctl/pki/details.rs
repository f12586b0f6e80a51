//! `gatewayctl pki show`: one certificate, with its PEM.
use anyhow::Result;
use gateway_pki::{Error, Name, Pki, Serial};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::list::{authority_row, record_row};
use crate::report::{Part, Report};

/// Reports a certificate by name (the newest), by serial number, or by an authority's place.
pub fn report(pki: &Pki, what: &str, now: OffsetDateTime) -> Result<Report> {
    if let Some(authority) = pki.authorities().iter().find(|authority| authority.role.name() == what) {
        return Ok(render(authority_row(authority, now), &authority.certificate));
    }
    let by_serial = || what.parse::<Serial>().ok().and_then(|serial| pki.by_serial(serial));
    let by_name = || what.parse::<Name>().ok().and_then(|name| pki.latest(&name));
    let record = by_serial().or_else(by_name).ok_or_else(|| Error::Unknown(what.to_owned()))?;
    let pem = pki.certificate_pem(record)?;
    // Tells now, and not at the site, that the key is another's.
    pki.key_pem(record)?;
    let files = pki.files(record);
    let mut row = record_row(record, now);
    row["certificate"] = json!(files.certificate);
    row["key_file"] = json!(files.key);
    let others = pki.certificates().iter().filter(|other| other.name == record.name);
    let others: Vec<String> =
        others.filter(|other| other.serial != record.serial).map(|other| other.serial.to_string()).collect();
    row["other_serials"] = json!(others);
    Ok(render(row, &pem))
}

fn render(mut row: Value, pem: &str) -> Report {
    let fields = row.as_object().into_iter().flatten();
    let lines = fields.filter_map(|(name, value)| {
        let text = match value {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" "),
            Value::Object(fields) => fields.values().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
            other => other.to_string(),
        };
        (!text.is_empty()).then(|| format!("{:<15} {text}", name.replace('_', " ")))
    });
    let mut parts: Vec<Part> = lines.map(Part::Line).collect();
    parts.push(Part::Line(pem.trim_end().to_owned()));
    row["pem"] = json!(pem);
    Report { json: row, parts }
}
