//! The units of a delta: values of one column of a view, and the queries that go by them.

use hashbrown::HashTable;
use pgrx::pg_sys::{self, Datum, Oid};

use crate::pg::relation::Relation;
use crate::pg::rows::row::{self, RowType, Values};
use crate::pg::rows::slot::ExecutorRow;
use crate::pg::statement::node;
use crate::pg::types;

/// A column by whose values rows are replaced.
#[derive(Debug, Clone, Copy)]
pub struct UnitColumn {
    /// Its place in the view, from 0.
    pub place: usize,
    type_of: Oid,
    type_modifier: i32,
    collation: Oid,
    length: i16,
    by_value: bool,
    align: i8,
    equality: Oid,
    /// The type that the operator takes, which the column's is as good as.
    operand: Oid,
}

impl UnitColumn {
    /// That column of a view; the name of its type if that has no equality that an index can use.
    pub fn of(view: &Relation, place: usize) -> std::result::Result<Self, String> {
        // SAFETY: an attribute of an open relation; catalog look-ups.
        unsafe {
            let attribute = &*row::attribute(view.descriptor(), place as i32);
            let type_of = attribute.atttypid;
            let types = pg_sys::lookup_type_cache(type_of, pg_sys::TYPECACHE_EQ_OPR as i32);
            let equality = (*types).eq_opr;
            if equality == pg_sys::InvalidOid {
                return Err(types::name(type_of));
            }
            let (mut left, mut right) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
            pg_sys::op_input_types(equality, &mut left, &mut right);
            debug_assert_eq!(left, right, "of the default equality of a type");
            // A domain is compared as what it is made of, and all enums by one operator.
            let base = pg_sys::getBaseType(type_of);
            let operand = match left {
                pg_sys::ANYENUMOID if pg_sys::type_is_enum(base) => base,
                pg_sys::TEXTOID if pg_sys::IsBinaryCoercible(base, left) => left,
                _ if left == base => base,
                _ => return Err(types::name(type_of)),
            };
            Ok(Self {
                place,
                type_of,
                type_modifier: attribute.atttypmod,
                collation: attribute.attcollation,
                length: attribute.attlen,
                by_value: attribute.attbyval,
                align: attribute.attalign,
                equality,
                operand,
            })
        }
    }
}

/// A set of units.
pub struct Units {
    column: UnitColumn,
    row_type: RowType,
    /// Hashes of the values, and their places.
    known: HashTable<(u64, usize)>,
    values: Vec<Datum>,
    null: bool,
}

impl Units {
    pub fn of(column: UnitColumn) -> Self {
        Self {
            column,
            row_type: RowType::of_value(column.by_value, column.length),
            known: HashTable::new(),
            values: Vec::new(),
            null: false,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.values.len() + usize::from(self.null)
    }

    /// Adds the first column of a row of a query that returns units; copies it into the present memory
    /// context if it is new.
    pub fn add_first_of(&mut self, row: &ExecutorRow) {
        let row = row.values();
        self.add((!row.nulls[0]).then_some(row.datums[0]), true);
    }

    /// Adds a value of the column's type; NULL only `with_null`.
    pub fn add(&mut self, value: Option<Datum>, with_null: bool) {
        let Some(value) = value else {
            self.null |= with_null;
            return;
        };
        let (datums, nulls) = ([value], [false]);
        let row = Values { datums: &datums, nulls: &nulls };
        let hash = self.row_type.hash(row);
        let Self { known, values, row_type, column, .. } = self;
        let is_there = |&(other, place): &(u64, usize)| {
            let datums = [values[place]];
            other == hash && row_type.same(row, Values { datums: &datums, nulls: &nulls })
        };
        if known.find(hash, is_there).is_none() {
            known.insert_unique(hash, (hash, values.len()), |&(hash, _)| hash);
            // SAFETY: a value of the column's type, as those who call this have it from the table.
            values.push(unsafe { row::copy_value(column.by_value, column.length, value) });
        }
    }

    /// Whether no row has more than one of them: values that are equal may be here twice if they look different.
    pub fn are_disjoint(&self) -> bool {
        types::equal_looks_same(self.column.type_of, self.column.collation)
    }

    /// Sets of one each.
    pub fn one_by_one(&self) -> impl Iterator<Item = Self> {
        let values = self.values.iter().map(|&value| (vec![value], false));
        let null = self.null.then(|| (Vec::new(), true));
        values.chain(null).map(|(values, null)| Self { values, null, ..Self::of(self.column) })
    }

    /// `column = unit`, or `column = ANY (units)` of several, with `OR column IS NULL` where NULL is one of
    /// them. From the first the planner learns what else is equal to that unit, from the second it does not.
    ///
    /// # Safety
    /// The variable is one of the column, in a query that is being made.
    pub(super) unsafe fn condition(
        &self,
        variable: impl Fn() -> *mut pg_sys::Var,
    ) -> *mut pg_sys::Node {
        // SAFETY: nodes are given what the parser would give them for that text.
        unsafe {
            let null = node::<pg_sys::NullTest>(pg_sys::NodeTag::T_NullTest);
            (*null).arg = variable().cast();
            (*null).nulltesttype = pg_sys::NullTestType::IS_NULL;
            (*null).location = -1;
            let values = match self.values[..] {
                [] if self.null => return null.cast(),
                [] => return pg_sys::makeBoolConst(false, false),
                [value] => self.equal(variable(), value),
                _ => self.equal_to_any(variable()),
            };
            if !self.null {
                return values;
            }
            let either = pg_sys::lappend(std::ptr::null_mut(), values.cast());
            let either = pg_sys::lappend(either, null.cast());
            pg_sys::makeBoolExpr(pg_sys::BoolExprType::OR_EXPR, either, -1).cast()
        }
    }

    /// # Safety
    /// As for `condition`.
    unsafe fn operand(&self, variable: *mut pg_sys::Var) -> *mut pg_sys::Expr {
        let UnitColumn { type_of, collation, operand, .. } = self.column;
        if operand == type_of {
            return variable.cast();
        }
        // SAFETY: the operand's type is as good as the column's.
        unsafe {
            let implicit = pg_sys::CoercionForm::COERCE_IMPLICIT_CAST;
            pg_sys::makeRelabelType(variable.cast(), operand, -1, collation, implicit).cast()
        }
    }

    /// # Safety
    /// As for `condition`.
    unsafe fn equal(&self, variable: *mut pg_sys::Var, value: Datum) -> *mut pg_sys::Node {
        let UnitColumn { collation, length, by_value, operand, equality, .. } = self.column;
        // SAFETY: a value of the column's type, which the operand's is as good as.
        unsafe {
            let length = i32::from(length);
            let value =
                pg_sys::makeConst(operand, -1, collation, length, value, false, by_value).cast();
            let left = self.operand(variable);
            let none = pg_sys::InvalidOid;
            let equal = pg_sys::make_opclause(
                equality,
                pg_sys::BOOLOID,
                false,
                left,
                value,
                none,
                collation,
            );
            pg_sys::set_opfuncid(equal.cast());
            equal.cast()
        }
    }

    /// # Safety
    /// As for `condition`.
    unsafe fn equal_to_any(&self, variable: *mut pg_sys::Var) -> *mut pg_sys::Node {
        let UnitColumn { type_of, collation, length, by_value, align, operand, .. } = self.column;
        // SAFETY: values of the column's type, which the operand's is as good as.
        unsafe {
            let mut values = self.values.clone();
            let array = pg_sys::construct_array(
                values.as_mut_ptr(),
                values.len() as i32,
                type_of,
                i32::from(length),
                by_value,
                align,
            );
            let array_type = pg_sys::get_array_type(operand);
            (*array).elemtype = operand;
            let array =
                pg_sys::makeConst(array_type, -1, collation, -1, Datum::from(array), false, false);
            let any = node::<pg_sys::ScalarArrayOpExpr>(pg_sys::NodeTag::T_ScalarArrayOpExpr);
            (*any).opno = self.column.equality;
            (*any).useOr = true;
            (*any).inputcollid = collation;
            let list = pg_sys::lappend(std::ptr::null_mut(), self.operand(variable).cast());
            (*any).args = pg_sys::lappend(list, array.cast());
            (*any).location = -1;
            pg_sys::set_sa_opfuncid(any);
            any.cast()
        }
    }

    /// A condition of all of these sets, on entry 1 of a range table; null for none.
    ///
    /// # Safety
    /// To be used in a query that is being made, whose entry 1 has the columns of the view.
    pub(super) unsafe fn all_hold(sets: &[Self]) -> *mut pg_sys::Node {
        let mut conditions = std::ptr::null_mut();
        // SAFETY: the caller vouches for the query.
        unsafe {
            for units in sets {
                let condition = units.condition(|| units.column.variable());
                conditions = pg_sys::lappend(conditions, condition.cast());
            }
            if conditions.is_null() {
                return std::ptr::null_mut();
            }
            pg_sys::make_ands_explicit(conditions).cast()
        }
    }

    /// The place of their column in the view.
    pub const fn place(&self) -> usize {
        self.column.place
    }
}

/// An array whose elements are no values of these columns.
pub struct WrongType {
    /// What the elements are.
    pub given: String,
    /// What they should be.
    pub expected: String,
}

/// The values of an array, which are those of the first column; or of an array of rows, whose columns are
/// these. Of each column there is a set: rows that have one of each are meant.
pub fn from_array(
    columns: &[UnitColumn],
    array: &pgrx::datum::AnyArray,
) -> std::result::Result<(Vec<Units>, usize), WrongType> {
    // SAFETY: an array as the server passes it; elements are of the type that it says.
    unsafe {
        let array = array.datum().cast_mut_ptr::<pg_sys::varlena>();
        let array = pg_sys::pg_detoast_datum(array).cast::<pg_sys::ArrayType>();
        let element = (*array).elemtype;
        let (mut length, mut by_value, mut align) = (0, false, 0);
        pg_sys::get_typlenbyvalalign(element, &mut length, &mut by_value, &mut align);
        let (mut datums, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            element,
            i32::from(length),
            by_value,
            align,
            &mut datums,
            &mut nulls,
            &mut count,
        );
        let elements = (0..usize::try_from(count).unwrap_or_default())
            .map(|place| (!*nulls.add(place)).then(|| *datums.add(place)));
        let wrong = |given: Oid| {
            let expected: Vec<String> =
                columns.iter().map(|column| types::name(column.type_of)).collect();
            let expected = match &expected[..] {
                [one] => one.clone(),
                all => format!("{}, or a row ({})", all[0], all.join(", ")),
            };
            WrongType { given: types::name(given), expected }
        };
        let rows = element == pg_sys::RECORDOID || pg_sys::type_is_rowtype(element);
        let mut sets: Vec<Units> = Vec::new();
        for value in elements {
            let fields = match value {
                Some(row) if rows => fields_of(row),
                value => vec![(element, value)],
            };
            if sets.is_empty() {
                sets = columns.iter().take(fields.len()).map(|&column| Units::of(column)).collect();
            }
            if fields.len() != sets.len() {
                return Err(wrong(element));
            }
            for (units, (of, value)) in sets.iter_mut().zip(fields) {
                let Some(value) = units.column.converted(of, value) else { return Err(wrong(of)) };
                units.add(value, true);
            }
        }
        let named = match &sets[..] {
            [one] => one.len(),
            _ => usize::try_from(count).unwrap_or_default(),
        };
        Ok((sets, named))
    }
}

/// The values of a row, and their types.
///
/// # Safety
/// A value of a composite type.
unsafe fn fields_of(row: Datum) -> Vec<(Oid, Option<Datum>)> {
    // SAFETY: the header of the row says of which type it is.
    unsafe {
        let header =
            pg_sys::pg_detoast_datum(row.cast_mut_ptr()).cast::<pg_sys::HeapTupleHeaderData>();
        let of = (*header).t_choice.t_datum;
        let descriptor = pg_sys::lookup_rowtype_tupdesc_copy(of.datum_typeid, of.datum_typmod);
        let mut tuple = pg_sys::HeapTupleData {
            t_len: u32::try_from(pgrx::varsize(header.cast())).unwrap_or_default(),
            t_data: header,
            ..Default::default()
        };
        let columns = usize::try_from((*descriptor).natts).unwrap_or_default();
        let (mut datums, mut nulls) = (vec![Datum::from(0); columns], vec![true; columns]);
        pg_sys::heap_deform_tuple(&mut tuple, descriptor, datums.as_mut_ptr(), nulls.as_mut_ptr());
        (0..columns)
            .map(|place| {
                let of = (*row::attribute(descriptor, place as i32)).atttypid;
                (of, (!nulls[place]).then_some(datums[place]))
            })
            .collect()
    }
}

impl UnitColumn {
    /// A value as one of this column, if it is of its type, a whole number that fits, or text. A domain's values
    /// are those of the type that it is made of: what it does not allow is in no row.
    fn converted(&self, of: Oid, value: Option<Datum>) -> Option<Option<Datum>> {
        // SAFETY: a look-up in the catalog.
        let (of, to) = unsafe { (pg_sys::getBaseType(of), pg_sys::getBaseType(self.type_of)) };
        // SAFETY: a look-up in the catalog.
        if unsafe { pg_sys::IsBinaryCoercible(of, to) } {
            return Some(value);
        }
        let Some(value) = value else { return Some(None) };
        let whole = match of {
            pg_sys::INT2OID => i64::from(value.value() as i16),
            pg_sys::INT4OID => i64::from(value.value() as i32),
            pg_sys::INT8OID => value.value() as i64,
            pg_sys::TEXTOID => {
                // SAFETY: a value of that type.
                let text = unsafe { pg_sys::text_to_cstring(value.cast_mut_ptr()) };
                return Some(Some(self.read(text.into())));
            }
            // A literal in a row is text that nobody has looked at.
            pg_sys::UNKNOWNOID => return Some(Some(self.read(value))),
            _ => return None,
        };
        let converted = match to {
            pg_sys::INT2OID => Datum::from(i16::try_from(whole).ok()?),
            pg_sys::INT4OID => Datum::from(i32::try_from(whole).ok()?),
            pg_sys::INT8OID => Datum::from(whole),
            _ => return None,
        };
        Some(Some(converted))
    }

    /// The value that a C string is read as.
    fn read(&self, text: Datum) -> Datum {
        let (mut input, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        let mut modifier = self.type_modifier;
        // SAFETY: the value of an unknown literal is a C string; raises an ERROR if it is none of the type.
        unsafe {
            let base = pg_sys::getBaseTypeAndTypmod(self.type_of, &mut modifier);
            pg_sys::getTypeInputInfo(base, &mut input, &mut parameter);
            pg_sys::OidInputFunctionCall(input, text.cast_mut_ptr(), parameter, modifier)
        }
    }

    /// A variable of the column, in entry 1 of a range table.
    ///
    /// # Safety
    /// To be used in such a query.
    pub(super) unsafe fn variable(&self) -> *mut pg_sys::Var {
        // SAFETY: a node of our own.
        unsafe {
            pg_sys::makeVar(
                1,
                self.place as i16 + 1,
                self.type_of,
                self.type_modifier,
                self.collation,
                0,
            )
        }
    }
}
