//! Reconciles the kernel maps and charon with the policy: desired state, observed state, plan, apply.
//! The desired state and the plan are values computed without side effects; only [`apply`] changes anything.
pub mod apply;
pub mod desired;
pub mod follow;
pub mod lock;
pub mod mss;
pub mod observed;
pub mod plan;
pub mod status;
#[cfg(test)]
mod tests;
