//! What a module's unwind table says of an address, read by ourselves.
//!
//! Promises: `Means::of` says how the frame at an address is to be left, and says so where nothing can be known: framehop
//! takes the frame pointer for what it has no table for, for rows that it can't evaluate and for evaluations that fail,
//! and does not tell. So it is asked only for rows that are one of its rules (`is_rule_of_framehops`), whose steps can't
//! fail unseen. `step` evaluates the others, or breaks off; it never guesses. No allocation; memory is read by `read`
//! alone. A look takes under a microsecond, once an address and workspace (`rules`).
//!
//! What rows are not framehop's: on x86-64 frames that a C compiler aligned whose size varies (gcc: the caller's sp is a word on
//! the stack) and trampolines; on aarch64 all, since there it can't read rows of functions that sign
//! their return addresses (as distributions build their C libraries), and takes a frame pointer register that holds something else,
//! as it may in C, for the end of the stack. A signal frame is left by what the kernel pushed (`signal`), and by no row.
//!
//! Source: DWARF 5, section 6.4, and the Linux Standard Base's `.eh_frame`, by gimli.

use gimli::{
    BaseAddresses, CallFrameInstruction, CfaRule, EhFrame, EhFrameHdr, EhFrameOffset, Encoding, EndianSlice,
    Evaluation, EvaluationResult, EvaluationStorage, FrameDescriptionEntry, LittleEndian, Location, Register,
    RegisterRule, UnwindExpression, UnwindSection as _, Value,
};

use super::code;
use super::frame::State;
use super::set::{Loaded, Set};
use super::signal;
use super::step::Next;

type Bytes = EndianSlice<'static, LittleEndian>;

#[cfg(target_arch = "x86_64")]
const SP: Register = gimli::X86_64::RSP;
#[cfg(target_arch = "x86_64")]
const FP: Register = gimli::X86_64::RBP;
#[cfg(target_arch = "aarch64")]
const SP: Register = gimli::AArch64::SP;
#[cfg(target_arch = "aarch64")]
const FP: Register = gimli::AArch64::X29;

/// States that a function's table may remember at a time: compilers need one.
const MOST_REMEMBERED: usize = 8;
/// For how many framehop has room, beside the one that the function begins with. With more it fails, and does not say so.
const FRAMEHOPS_REMEMBERED: usize = 2;
/// Operations of one expression: no row that a compiler or libc writes has ten.
const MOST_OPERATIONS: u32 = 64;

/// How the frame at an address is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Means {
    /// Not at all: its row can't be evaluated.
    Nothing = 0,
    /// By framehop: its row is one of framehop's rules.
    Rule = 1,
    /// By its row, evaluated here.
    Row = 2,
    /// By the frame pointer, which its code sets up: it has no row. Its caller is believed if it is proved (`code`).
    FramePointer = 3,
    /// Not at all: it has no row, and its code does not show that it has a frame pointer. If that is 0 and the code is a module's,
    /// it is the start of the program or of a thread, by both ABIs (musl has no table that says so).
    Bare = 4,
    /// As a signal handler's caller, by what the kernel pushed (`signal`).
    Signal = 5,
}

impl Means {
    /// Of the code that `call` lies in, the byte before a return address; and the row, if it is plain.
    #[cold]
    #[inline(never)]
    pub(super) fn of(set: &Set, call: u64) -> (Means, Option<Plain>) {
        let means = match Row::of(set, call) {
            Found::None | Found::Signal if signal::is_return(call.wrapping_add(1)) => Means::Signal,
            Found::Row(row) if row.is_rule_of_framehops() => return (Means::Rule, row.plain()),
            Found::Row(row) => return (Means::Row, row.plain()),
            Found::Unreadable | Found::Signal => Means::Nothing,
            Found::None | Found::Foreign if code::keeps_frame_pointer(set, call) => Means::FramePointer,
            Found::Foreign => Means::Nothing,
            Found::None => Means::Bare,
        };
        (means, None)
    }

    /// The same, for an instruction that was interrupted: code shows what holds at calls, after the frame is made and before it is
    /// left, and a row what holds at each instruction.
    pub(super) fn where_interrupted(self) -> Means {
        match self {
            Means::FramePointer | Means::Bare => Means::Nothing,
            other => other,
        }
    }

    /// What `as u8` made a number of.
    pub(super) fn from_number(number: u32) -> Means {
        match number {
            1 => Means::Rule,
            2 => Means::Row,
            3 => Means::FramePointer,
            4 => Means::Bare,
            5 => Means::Signal,
            _ => Means::Nothing,
        }
    }
}

/// A row as most are: the caller's sp is sp or fp and so many bytes, the return address a word below it, and fp stays or is a word,
/// too. All above the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plain {
    /// The base is the frame pointer; else the stack pointer.
    pub(super) from_fp: bool,
    /// The caller's sp, in bytes above the base.
    pub(super) sp: u32,
    /// The return address, in words below that; 1 on x86-64.
    pub(super) below: u16,
    /// The caller's fp, in bytes above the base, if it is not as it was.
    pub(super) fp: Option<u32>,
}

/// A function's table says something of this address.
pub(super) fn covers(set: &Set, address: u64) -> bool {
    set.module(address).is_some_and(|module| !matches!(Entry::of(module, address), Ok(None)))
}

/// A function with a table begins here.
pub(super) fn begins(set: &Set, address: u64) -> bool {
    let entry = set.module(address).and_then(|module| Some((module, Entry::of(module, address).ok()??)));
    entry.is_some_and(|(module, entry)| entry.function.initial_address() == address.wrapping_sub(module.bias))
}

/// The caller of the frame `state`, whose row for `call` is not framehop's. `first`: the link register, of the first frame alone;
/// taken from there where it is the return address.
#[cold]
#[inline(never)]
pub(super) fn step(
    set: &Set,
    call: u64,
    state: State,
    first: &mut Option<u64>,
    read: &mut impl FnMut(u64) -> Result<u64, ()>,
) -> Next {
    let Found::Row(row) = Row::of(set, call) else { return Next::Broken };
    if row.rules.return_address == Some(RegisterRule::Undefined) {
        return Next::End;
    }
    let Some(to) = row.caller(state, first, read) else { return Next::Broken };
    #[cfg(target_arch = "aarch64")]
    let to = State { address: to.address & set.address_mask, ..to };
    Next::To(to)
}

/// One function's entry in the table, and how to read it.
struct Entry {
    section: EhFrame<Bytes>,
    bases: BaseAddresses,
    function: FrameDescriptionEntry<Bytes>,
}

impl Entry {
    /// `None` where there is no table, or it has nothing for this address; an error where it has what can't be read (of aarch64's
    /// augmentations gimli does not know that for signing by the other key).
    fn of(module: &Loaded, address: u64) -> Result<Option<Entry>, ()> {
        let Some((section, bases, offset)) = Entry::place(module, address) else { return Ok(None) };
        let function = section.fde_from_offset(&bases, offset, EhFrame::cie_from_offset).map_err(drop)?;
        let is_its = function.contains(address.wrapping_sub(module.bias));
        Ok(is_its.then_some(Entry { section, bases, function }))
    }

    /// Where the table has the last function that does not begin behind this address.
    fn place(module: &Loaded, address: u64) -> Option<(EhFrame<Bytes>, BaseAddresses, EhFrameOffset)> {
        let sections = &module.sections;
        let in_file = |address: u64| address.wrapping_sub(module.bias);
        let bases = BaseAddresses::default()
            .set_eh_frame_hdr(in_file(sections.eh_frame_hdr_address))
            .set_eh_frame(in_file(sections.eh_frame_address))
            .set_text(in_file(module.start));
        let header = EhFrameHdr::new(sections.eh_frame_hdr, LittleEndian).parse(&bases, 8).ok()?;
        let table = header.table()?;
        let offset = table.pointer_to_offset(table.lookup(in_file(address), &bases).ok()?).ok()?;
        let mut section = EhFrame::new(sections.eh_frame, LittleEndian);
        section.set_address_size(8);
        #[cfg(target_arch = "aarch64")]
        section.set_vendor(gimli::Vendor::AArch64);
        Some((section, bases, offset))
    }
}

/// The rules for a frame's caller; `None`: the table has none.
#[derive(Clone)]
struct Rules {
    cfa: CfaRule<usize>,
    sp: Option<RegisterRule<usize>>,
    fp: Option<RegisterRule<usize>>,
    return_address: Option<RegisterRule<usize>>,
}

/// What there is for an address.
enum Found {
    /// No table covers it.
    None,
    /// One does, and can't be read.
    Foreign,
    /// So it is with this row.
    Unreadable,
    /// A signal frame's, whose row leads to an interrupted instruction: to be left by what the kernel pushed, or not at all.
    Signal,
    Row(Row),
}

/// A row of a table.
struct Row {
    rules: Rules,
    section: EhFrame<Bytes>,
    encoding: Encoding,
    /// The most states that were remembered at a time on the way to it.
    deepest: usize,
}

impl Row {
    fn of(set: &Set, address: u64) -> Found {
        let Some(module) = set.module(address) else { return Found::None };
        match Entry::of(module, address) {
            Ok(None) => Found::None,
            Err(()) => Found::Foreign,
            Ok(Some(entry)) if entry.function.is_signal_trampoline() => Found::Signal,
            Ok(Some(entry)) => {
                Row::read(&entry, address.wrapping_sub(module.bias)).map_or(Found::Unreadable, Found::Row)
            }
        }
    }

    fn read(entry: &Entry, address: u64) -> Option<Row> {
        let Entry { section, bases, function } = entry;
        let cie = function.cie();
        let mut reading = Reading {
            rules: Rules { cfa: CfaRule::default(), sp: None, fp: None, return_address: None },
            initial: None,
            remembered: [const { None }; MOST_REMEMBERED],
            depth: 0,
            deepest: 0,
            return_address: cie.return_address_register(),
            data_factor: cie.data_alignment_factor(),
        };
        let mut beginnings = cie.instructions(section, bases);
        while let Some(instruction) = beginnings.next().ok()? {
            reading.obey(&instruction)?;
        }
        reading.initial = Some(reading.rules.clone());
        let (mut at, mut instructions) = (function.initial_address(), function.instructions(section, bases));
        while let Some(instruction) = instructions.next().ok()? {
            match instruction {
                CallFrameInstruction::SetLoc { address } => at = address,
                CallFrameInstruction::AdvanceLoc { delta } => {
                    at = at.checked_add(u64::from(delta).checked_mul(cie.code_alignment_factor())?)?;
                }
                other => reading.obey(&other)?,
            }
            if at > address {
                break;
            }
        }
        Some(Row { rules: reading.rules, section: *section, encoding: cie.encoding(), deepest: reading.deepest })
    }

    /// framehop makes a rule of it that depends on the address alone, or takes it for the stack's end.
    fn is_rule_of_framehops(&self) -> bool {
        let Rules { cfa, sp, fp, return_address } = &self.rules;
        let is_end = matches!(return_address, None | Some(RegisterRule::Undefined));
        if cfg!(target_arch = "aarch64") || self.deepest > FRAMEHOPS_REMEMBERED || on_stack(sp) != Some(None) {
            return false;
        }
        let (CfaRule::RegisterAndOffset { register, offset }, Some(fp), Some(ra)) =
            (cfa, on_stack(fp), on_stack(return_address))
        else {
            return is_end;
        };
        let fits =
            |distance: i64, least: i64| distance % 8 == 0 && (least..=i64::from(i16::MAX)).contains(&(distance / 8));
        let saved = |fp: i64| offset.checked_add(fp).is_some_and(|place| fits(place, i64::from(i16::MIN)));
        is_end
            || ra == Some(-8)
                && (*register == SP && fits(*offset, 0) && fp.is_none_or(saved)
                    || *register == FP && *offset == 16 && fp == Some(-16))
    }

    /// `None` where it is another, or depends on more than the address.
    fn plain(&self) -> Option<Plain> {
        let Rules { cfa: CfaRule::RegisterAndOffset { register, offset }, sp, fp, return_address } = &self.rules else {
            return None;
        };
        let (from_fp, returns) = (*register == FP, on_stack(return_address)??);
        let below = u16::try_from(returns.checked_neg()?.checked_div(8)?).ok()?;
        let is_one = returns % 8 == 0
            && offset.checked_add(returns)? >= 0
            && if cfg!(target_arch = "x86_64") { below == 1 } else { below > 0 };
        if !is_one || !from_fp && *register != SP || on_stack(sp) != Some(None) {
            return None;
        }
        let fp = match on_stack(fp)? {
            None => None,
            Some(saved) => Some(u32::try_from(offset.checked_add(saved)?).ok()?),
        };
        Some(Plain { from_fp, sp: u32::try_from(*offset).ok()?, below, fp })
    }

    /// By this row. The return address is required, and all that there is a rule for; it may be in the link register of the `first`.
    fn caller(
        &self,
        state: State,
        first: &mut Option<u64>,
        read: &mut impl FnMut(u64) -> Result<u64, ()>,
    ) -> Option<State> {
        let cfa = match &self.rules.cfa {
            CfaRule::RegisterAndOffset { register, offset } => {
                register_of(&state, *register)?.checked_add_signed(*offset)?
            }
            CfaRule::Expression(expression) => self.value(expression, None, &state, read)?,
        };
        let mut restore = |rule: &Option<RegisterRule<usize>>, same: u64| match rule {
            None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Some(same),
            Some(RegisterRule::Offset(offset)) => read(cfa.checked_add_signed(*offset)?).ok(),
            Some(RegisterRule::ValOffset(offset)) => cfa.checked_add_signed(*offset),
            Some(RegisterRule::Register(register)) => register_of(&state, *register),
            Some(RegisterRule::Expression(place)) => {
                let place = self.value(place, Some(cfa), &state, read)?;
                read(place).ok()
            }
            Some(RegisterRule::ValExpression(value)) => self.value(value, Some(cfa), &state, read),
            Some(_) => None,
        };
        let fp = restore(&self.rules.fp, state.fp)?;
        let sp = restore(&self.rules.sp, cfa)?;
        // The last that is read: what the memo takes for the frame's own is the last of its words.
        let address = match &self.rules.return_address {
            None | Some(RegisterRule::SameValue) if cfg!(target_arch = "aarch64") => first.take()?,
            None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => return None,
            rule => restore(rule, 0)?,
        };
        Some(State { address, sp, fp })
    }

    /// `begins`: what the expression finds on its stack.
    fn value(
        &self,
        expression: &UnwindExpression<usize>,
        begins: Option<u64>,
        state: &State,
        read: &mut impl FnMut(u64) -> Result<u64, ()>,
    ) -> Option<u64> {
        let mut evaluation = Evaluation::<Bytes, Few>::new_in(expression.get(&self.section).ok()?.0, self.encoding);
        evaluation.set_max_iterations(MOST_OPERATIONS);
        if let Some(value) = begins {
            evaluation.set_initial_value(value);
        }
        let mut result = evaluation.evaluate().ok()?;
        loop {
            result = match result {
                EvaluationResult::Complete => break,
                EvaluationResult::RequiresRegister { register, .. } => {
                    evaluation.resume_with_register(Value::Generic(register_of(state, register)?)).ok()?
                }
                EvaluationResult::RequiresMemory { address, size: 8, space: None, .. } => {
                    evaluation.resume_with_memory(Value::Generic(read(address).ok()?)).ok()?
                }
                _ => return None,
            };
        }
        match evaluation.as_result().last()?.location {
            Location::Address { address } => Some(address),
            _ => None,
        }
    }
}

/// Where a rule says that a register is, from the caller's sp; `Some(None)`: as it was. `None` for other rules.
fn on_stack(rule: &Option<RegisterRule<usize>>) -> Option<Option<i64>> {
    match rule {
        None | Some(RegisterRule::Undefined | RegisterRule::SameValue) => Some(None),
        Some(RegisterRule::Offset(offset)) => Some(Some(*offset)),
        Some(_) => None,
    }
}

/// What is known of the frame's registers.
fn register_of(state: &State, register: Register) -> Option<u64> {
    match register {
        SP => Some(state.sp),
        FP => Some(state.fp),
        #[cfg(target_arch = "x86_64")]
        gimli::X86_64::RA => Some(state.address),
        _ => None,
    }
}

/// The instructions of a table, carried out up to an address.
struct Reading {
    rules: Rules,
    /// The rules that the function begins with.
    initial: Option<Rules>,
    remembered: [Option<Rules>; MOST_REMEMBERED],
    /// In 0..=MOST_REMEMBERED.
    depth: usize,
    deepest: usize,
    return_address: Register,
    data_factor: i64,
}

impl Reading {
    /// `None`: it can't be done.
    fn obey(&mut self, instruction: &CallFrameInstruction<usize>) -> Option<()> {
        use CallFrameInstruction as Do;
        let factored = |factor: u64| i64::try_from(factor).ok()?.checked_mul(self.data_factor);
        let factored_signed = |factor: i64| factor.checked_mul(self.data_factor);
        match instruction {
            Do::DefCfa { register, offset } => {
                self.rules.cfa =
                    CfaRule::RegisterAndOffset { register: *register, offset: i64::try_from(*offset).ok()? };
            }
            Do::DefCfaSf { register, factored_offset } => {
                let offset = factored_signed(*factored_offset)?;
                self.rules.cfa = CfaRule::RegisterAndOffset { register: *register, offset };
            }
            Do::DefCfaRegister { register: now } => match &mut self.rules.cfa {
                CfaRule::RegisterAndOffset { register, .. } => *register = *now,
                CfaRule::Expression(_) => return None,
            },
            Do::DefCfaOffset { offset } => self.move_cfa(i64::try_from(*offset).ok()?)?,
            Do::DefCfaOffsetSf { factored_offset } => self.move_cfa(factored_signed(*factored_offset)?)?,
            Do::DefCfaExpression { expression } => self.rules.cfa = CfaRule::Expression(*expression),
            Do::Undefined { register } => self.set(*register, Some(RegisterRule::Undefined)),
            Do::SameValue { register } => self.set(*register, Some(RegisterRule::SameValue)),
            Do::Offset { register, factored_offset } => {
                let offset = factored(*factored_offset)?;
                self.set(*register, Some(RegisterRule::Offset(offset)));
            }
            Do::OffsetExtendedSf { register, factored_offset } => {
                let offset = factored_signed(*factored_offset)?;
                self.set(*register, Some(RegisterRule::Offset(offset)));
            }
            Do::ValOffset { register, factored_offset } => {
                let offset = factored(*factored_offset)?;
                self.set(*register, Some(RegisterRule::ValOffset(offset)));
            }
            Do::ValOffsetSf { register, factored_offset } => {
                let offset = factored_signed(*factored_offset)?;
                self.set(*register, Some(RegisterRule::ValOffset(offset)));
            }
            Do::Register { dest_register, src_register } => {
                self.set(*dest_register, Some(RegisterRule::Register(*src_register)));
            }
            Do::Expression { register, expression } => {
                self.set(*register, Some(RegisterRule::Expression(*expression)));
            }
            Do::ValExpression { register, expression } => {
                self.set(*register, Some(RegisterRule::ValExpression(*expression)));
            }
            Do::Restore { register } => {
                let initial = self.initial.as_ref()?;
                let rule = match *register {
                    r if r == self.return_address => initial.return_address.clone(),
                    SP => initial.sp.clone(),
                    FP => initial.fp.clone(),
                    _ => None,
                };
                self.set(*register, rule);
            }
            Do::RememberState => {
                *self.remembered.get_mut(self.depth)? = Some(self.rules.clone());
                self.depth += 1;
                self.deepest = self.deepest.max(self.depth);
            }
            Do::RestoreState => {
                self.depth = self.depth.checked_sub(1)?;
                self.rules = self.remembered.get_mut(self.depth)?.take()?;
            }
            Do::ArgsSize { .. } | Do::NegateRaState | Do::Nop => {}
            _ => return None,
        }
        Some(())
    }

    fn move_cfa(&mut self, now: i64) -> Option<()> {
        match &mut self.rules.cfa {
            CfaRule::RegisterAndOffset { offset, .. } => *offset = now,
            CfaRule::Expression(_) => return None,
        }
        Some(())
    }

    fn set(&mut self, register: Register, rule: Option<RegisterRule<usize>>) {
        match register {
            r if r == self.return_address => self.rules.return_address = rule,
            SP => self.rules.sp = rule,
            FP => self.rules.fp = rule,
            _ => {}
        }
    }
}

/// Room for an expression's values.
struct Few;

impl EvaluationStorage<Bytes> for Few {
    type Stack = [Value; 16];
    type ExpressionStack = [(Bytes, Bytes); 1];
    type Result = [gimli::Piece<Bytes>; 1];
}
