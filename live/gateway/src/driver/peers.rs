//! Who is connected, and what follows from it for those who ask.

use super::handle::{Served, Shared};
use ol_net::{Down, Sender};
use ol_protocol::certificate::Certificate;
use ol_protocol::variant::Variant;
use ol_protocol::{Region, VariantId};
use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

/// A node with its link.
pub(super) struct Peer {
    pub(super) generation: u64,
    pub(super) sender: Sender<Down>,
    pub(super) variants: Vec<(VariantId, Variant)>,
    pub(super) referee: bool,
    pub(super) certificate: Certificate,
    /// Where it says that it stands.
    pub(super) region: Option<Region>,
}

impl Peer {
    pub(super) fn variant(&self, id: VariantId) -> Option<&Variant> {
        self.variants.iter().find(|(of, _)| *of == id).map(|(_, variant)| variant)
    }

    /// Its variants are offered from now on. As long as its own list is.
    pub(super) fn joined(&self, shared: &Shared) {
        let mut variants = shared.variants.write().unwrap_or_else(PoisonError::into_inner);
        for (id, variant) in &self.variants {
            let new = || Served { variant: variant.clone(), nodes: 0, regions: BTreeMap::new(), referees: 0 };
            let served = variants.entry(*id).or_insert_with(new);
            if self.referee {
                served.referees += 1;
                continue;
            }
            served.nodes += 1;
            if let Some(region) = self.region {
                *served.regions.entry(region).or_default() += 1;
            }
        }
        match self.referee {
            true => shared.has_referee.store(true, Ordering::Relaxed),
            false => drop(shared.workers.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// They are no more, as far as it is concerned.
    pub(super) fn left(&self, shared: &Shared) {
        let mut variants = shared.variants.write().unwrap_or_else(PoisonError::into_inner);
        for (id, _) in &self.variants {
            let Some(served) = variants.get_mut(id) else { continue };
            match self.referee {
                true => served.referees -= 1,
                false => served.depart(self.region),
            }
            if served.nodes == 0 && served.referees == 0 {
                variants.remove(id);
            }
        }
        match self.referee {
            // It has one link: a second one takes the first one's place.
            true => shared.has_referee.store(false, Ordering::Relaxed),
            false => drop(shared.workers.fetch_sub(1, Ordering::Relaxed)),
        }
    }
}

impl Served {
    fn depart(&mut self, region: Option<Region>) {
        self.nodes -= 1;
        let Some(region) = region else { return };
        if let Some(nodes) = self.regions.get_mut(&region) {
            *nodes -= 1;
            if *nodes == 0 {
                self.regions.remove(&region);
            }
        }
    }
}
