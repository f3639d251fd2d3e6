//! This extension, as an object of the present database.

use pgrx::{FromDatum, pg_sys};

use super::identity;
use super::relation::{Relation, Scan};

/// Where it is, and whose.
pub struct Extension {
    pub owner: pg_sys::Oid,
    pub schema: pg_sys::Oid,
}

impl Extension {
    fn oid() -> Option<pg_sys::Oid> {
        // SAFETY: looks up the catalog.
        let oid = unsafe { pg_sys::get_extension_oid(c"cache_refresher".as_ptr(), true) };
        (oid != pg_sys::InvalidOid).then_some(oid)
    }

    pub fn is_here() -> bool {
        Self::oid().is_some()
    }

    /// Nothing if it is not here.
    pub fn find() -> Option<Self> {
        let oid = Self::oid()?;
        let extensions = Relation::open_shared(pg_sys::ExtensionRelationId);
        let mut scan = Scan::begin(&extensions);
        while scan.advance() {
            let values = scan.values();
            let oid_in = |column: u32| {
                let place = column as usize - 1;
                // SAFETY: columns of that type.
                unsafe { pg_sys::Oid::from_datum(values.datums[place], values.nulls[place]) }
            };
            if oid_in(pg_sys::Anum_pg_extension_oid) == Some(oid) {
                return Some(Self {
                    owner: oid_in(pg_sys::Anum_pg_extension_extowner)?,
                    schema: oid_in(pg_sys::Anum_pg_extension_extnamespace)?,
                });
            }
        }
        None
    }

    /// Whether the current role has the rights of its owner.
    pub fn is_owned(&self) -> bool {
        identity::acts_for(self.owner)
    }
}
