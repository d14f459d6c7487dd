//! the job model and the JobStore contract
