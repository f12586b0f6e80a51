//! The hash of a policy: whether two gateways, or a gateway and a pipeline, have the same one.
use std::fmt::{self, Write as _};

use ring::digest::{Context, SHA256};

use crate::policy::Policy;

/// Returns the SHA-256 of all values of a policy, in hexadecimal digits. Comments and the order of keys do not count, and
/// neither do the contents of certificates. Another version of gatewayd may return another one.
pub fn fingerprint(policy: &Policy) -> String {
    let mut hasher = Hasher(Context::new(&SHA256));
    let mut gateway = policy.gateway.clone();
    // The size in force, whether the file names it or not.
    gateway.limits.flows6 = Some(policy.flows6());
    // Infallible: the hasher takes everything.
    let _ = write!(hasher, "{gateway:?}{:?}", policy.customers);
    hasher.0.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hashes text as it is written, so that no copy of all customers is made.
struct Hasher(Context);

impl fmt::Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::policy;

    #[test]
    fn each_change_of_a_policy_changes_its_hash() {
        let example = policy::load(Path::new("../policies")).unwrap();
        let hash = fingerprint(&example);
        assert!(hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()), "{hash}");
        assert_eq!(fingerprint(&example.clone()), hash);
        let mut sized = example.clone();
        sized.gateway.limits.flows6 = Some(example.flows6());
        assert_eq!(fingerprint(&sized), hash);
        let mut gateway = example.clone();
        gateway.gateway.max_removed_percent += 1;
        let mut site = example.clone();
        site.customers.values_mut().next_back().unwrap().sites.pop();
        let mut customer = example;
        customer.customers.pop_first();
        let others = [gateway, site, customer].map(|policy| fingerprint(&policy));
        assert!(others.iter().all(|other| *other != hash), "{others:?}");
        assert!(others[0] != others[1] && others[1] != others[2]);
    }
}
