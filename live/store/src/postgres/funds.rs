//! What the issuer sold, shared by the gateways of one database: each takes parts of it for itself.

use super::server::Server;
use super::session::Session;
use super::{claim, schema};
use crate::database::int;
use crate::error::{Error, Refusal};
use ol_protocol::top_up::{Funded, Slice, TopUp};
use ol_protocol::{GatewayId, MicroCredits, TenantId};
use tokio_postgres::Row;

/// How often a claim looks again when a sister took the last of the top-up that it waited for.
const LOOKS: usize = 8;

// Told apart from the locks of gateways and tables. "OLtopups" in ASCII.
const TOP_UPS: i64 = 0x4f4c_746f_7075_7073;

// The lowest serial that is not used up, its row locked until the part is written down: sisters wait for a moment.
const TAKE: &str = "
    WITH next AS (
        SELECT tenant, serial, bytes, claimed AS start, least($3, amount - claimed) AS part FROM top_ups
        WHERE tenant = $2 AND claimed < amount ORDER BY serial LIMIT 1 FOR UPDATE
    ), taken AS (
        UPDATE top_ups SET claimed = claimed + part FROM next
        WHERE top_ups.tenant = next.tenant AND top_ups.serial = next.serial
    ), kept AS (
        INSERT INTO slices (gateway, tenant, serial, start, amount) SELECT $1, tenant, serial, start, part FROM next
    )
    SELECT bytes, start, part FROM next";

// A part that this gateway took, and whose answer it never heard or never logged.
const UNHEARD: &str = "
    SELECT bytes, start, slices.amount FROM slices JOIN top_ups USING (tenant, serial)
    WHERE gateway = $1 AND tenant = $2 AND (serial, start) >= ($3, $4) ORDER BY serial, start LIMIT 1";

/// The top-ups of a PostgreSQL database, for one of its gateways. A connection of its own; if it is lost, the next question
/// makes another.
pub struct PostgresFunds {
    server: Server,
    session: Option<Session>,
    number: i32,
}

impl core::fmt::Debug for PostgresFunds {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PostgresFunds({}, gateway {})", self.server.place(), self.number)
    }
}

impl PostgresFunds {
    /// For a gateway whose log has begun.
    pub fn open(server: &Server, gateway: GatewayId) -> Result<Self, Error> {
        let session = connect(server)?;
        let found = claim::find(&session, gateway)?;
        let found = found.ok_or_else(|| Error::NoLog { gateway, place: server.place().clone() })?;
        Ok(Self { server: server.clone(), session: Some(session), number: found.number })
    }

    /// Keeps a top-up for all gateways to take parts of; `false` if it is there already. Its signature, network and owner
    /// are the caller's to check.
    pub fn add(&mut self, top_up: &TopUp) -> Result<bool, Error> {
        let (serial, amount) = (int("serial of a top-up", top_up.serial)?, int("a top-up of", top_up.amount.0)?);
        self.in_transaction(|session| {
            // Whoever adds for the same tenant meanwhile could be given a number below this one.
            session.ask("SELECT pg_advisory_xact_lock($1)", &[&lock_key(top_up.tenant)])?;
            let last = "SELECT serial, bytes FROM top_ups WHERE tenant = $1 ORDER BY serial DESC LIMIT 1";
            let read = |row: &Row| Ok((row.try_get::<_, i64>(0)?, row.try_get::<_, Vec<u8>>(1)?));
            let last = session.ask(last, &[&&top_up.tenant.0[..]])?.first().map(read).transpose();
            match last.map_err(|cause| session.server().failed(cause))? {
                Some((_, bytes)) if bytes == top_up.to_bytes() => return Ok(false),
                Some((last, _)) if last >= serial => {
                    return Err(Refusal::Serial { serial: top_up.serial, last: last.cast_unsigned() }.into());
                }
                Some(_) | None => {}
            }
            let sql = "INSERT INTO top_ups (tenant, serial, bytes, amount, claimed) VALUES ($1, $2, $3, $4, 0)";
            session.ask(sql, &[&&top_up.tenant.0[..], &serial, &top_up.to_bytes(), &amount])?;
            Ok(true)
        })
    }

    /// The last part of each tenant's top-ups that this gateway took: after a start they may not be booked yet.
    pub fn last_parts(&mut self) -> Result<Vec<Slice>, Error> {
        let number = self.number;
        let sql =
            "SELECT DISTINCT ON (tenant) bytes, start, slices.amount FROM slices JOIN top_ups USING (tenant, serial)
            WHERE gateway = $1 ORDER BY tenant, serial DESC, start DESC";
        self.with(|session| session.ask(sql, &[&number])?.iter().map(|row| read(session, row)).collect())
    }

    /// Takes a part of a tenant's top-ups for this gateway: `amount`, or what is left of the one that comes next; `None` if
    /// nothing is left. `booked` is how far the gateway has booked them: a part that it took and that is beyond is given
    /// again, so that nothing is lost with an answer. No two gateways are ever given the same.
    pub fn claim(
        &mut self,
        tenant: TenantId,
        amount: MicroCredits,
        booked: Option<Funded>,
    ) -> Result<Option<Slice>, Error> {
        let booked = booked.unwrap_or(Funded { serial: 0, end: MicroCredits::ZERO });
        let (serial, end) = (int("serial of a top-up", booked.serial)?, int("end of a part", booked.end.0)?);
        let (number, amount) = (self.number, i64::try_from(amount.0).unwrap_or(i64::MAX));
        self.with(|session| {
            let unheard = session.ask(UNHEARD, &[&number, &&tenant.0[..], &serial, &end])?;
            if let Some(row) = unheard.first() {
                return read(session, row).map(Some);
            }
            for _ in 0..LOOKS {
                let rows = session.ask(TAKE, &[&number, &&tenant.0[..], &amount])?;
                if let Some(row) = rows.first() {
                    return read(session, row).map(Some);
                }
                let left = "SELECT 1 FROM top_ups WHERE tenant = $1 AND claimed < amount LIMIT 1";
                if session.ask(left, &[&&tenant.0[..]])?.is_empty() {
                    return Ok(None);
                }
            }
            Ok(None)
        })
    }

    fn with<T>(&mut self, body: impl FnOnce(&Session) -> Result<T, Error>) -> Result<T, Error> {
        let slot = &mut self.session;
        let session = match slot.take() {
            Some(session) if !session.is_closed() => session,
            _ => connect(&self.server)?,
        };
        body(slot.insert(session))
    }

    fn in_transaction<T>(&mut self, body: impl FnOnce(&Session) -> Result<T, Error>) -> Result<T, Error> {
        self.with(|session| {
            session.script("BEGIN")?;
            let done = body(session);
            let end = if done.is_ok() { "COMMIT" } else { "ROLLBACK" };
            // A transaction that can't be ended ends with its session.
            session.script(end).inspect_err(|_| session.abandon()).and(done)
        })
    }
}

fn connect(server: &Server) -> Result<Session, Error> {
    let session = Session::connect(server)?;
    schema::join(&session)?;
    Ok(session)
}

// A lock of its own for each tenant; two that share one wait for each other now and then.
fn lock_key(tenant: TenantId) -> i64 {
    let [high, low] = [0, 8].map(|at| tenant.0[at..].first_chunk().map_or(0, |part| i64::from_be_bytes(*part)));
    high ^ low ^ TOP_UPS
}

fn read(session: &Session, row: &Row) -> Result<Slice, Error> {
    let failed = |cause| session.server().failed(cause);
    let bytes: Vec<u8> = row.try_get(0).map_err(failed)?;
    let number = |column| row.try_get(column).map(i64::cast_unsigned).map(MicroCredits).map_err(failed);
    let top_up = TopUp::from_bytes(&bytes).map_err(|cause| Error::TopUp { cause })?;
    Ok(Slice { top_up, from: number(1)?, amount: number(2)? })
}
