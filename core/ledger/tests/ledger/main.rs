//! Tests of the ledger through its public names.

#[cfg(test)]
mod properties;
#[cfg(test)]
mod settlement;
#[cfg(test)]
mod world;
