//! The example programs, as their users meet them: started, talked to, signalled, ended.

mod client;
mod explain;
mod kit;
mod server;
mod stress;
