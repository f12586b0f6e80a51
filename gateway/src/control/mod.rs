//! Reconciles the kernel maps with the policy and charon's SAs: desired state, observed state, plan, apply.
//! The desired state, the bindings and the plan are values computed without side effects; only [`apply`] changes anything.
pub mod apply;
pub mod bindings;
pub mod desired;
pub mod follow;
pub mod live;
pub mod mss;
pub mod observed;
pub mod plan;
pub mod sites;
#[cfg(test)]
mod tests;
