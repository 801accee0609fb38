//! The board: the cards that are watched, by UUID, with their history, and what its user chose. Drawing
//! it is `screen`'s; it knows no terminal and no clock, so every moment of it can be made in a test.

use std::collections::VecDeque;
use std::time::Duration;

use super::keys::Key;
use super::sample::Top;
use super::watch::Look;
use crate::exit::Problem;

/// Moments that are remembered of a card.
const HISTORY: usize = 512;
/// Intervals that may be chosen.
const INTERVALS: [u64; 9] = [100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000];
/// How long it is said that a card was reset, or is back.
const NEWS: Duration = Duration::from_secs(10);
/// A card is silent when it gives no sample for two intervals and this.
const GRACE: Duration = Duration::from_millis(1500);

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    Cards,
    Details,
    Help,
}

/// What a key asks of those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Nothing,
    Quit,
    Pause(bool),
    Interval(Duration),
}

/// A moment of a card, in thousandths; none: unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    pub busy: Option<u64>,
    pub power: Option<u64>,
}

/// Something that happened to a card, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    Reset(Duration),
    Back(Duration),
}

/// A card that is watched.
#[derive(Debug)]
pub struct Card {
    pub watcher: usize,
    pub name: String,
    pub uuid: Option<String>,
    /// Its last sample, or why there is none.
    pub look: Option<Result<Top, Problem>>,
    /// Its place in `jalctl list` when it was last seen.
    pub index: Option<usize>,
    /// When the last look came.
    heard: Duration,
    /// Since when there is no sample.
    pub gone: Option<Duration>,
    pub news: Option<News>,
    pub history: VecDeque<Moment>,
}

/// A card at a moment.
#[derive(Debug)]
pub enum Shown<'a> {
    /// Nothing came yet.
    Waiting,
    Sample(&'a Top),
    /// A word for the table, and how long it is so.
    Gone(&'a str, Duration, Option<&'a Problem>),
}

/// See the file's head.
#[derive(Debug)]
pub struct Board {
    pub cards: Vec<Card>,
    /// The key of the card that is chosen.
    selected: Option<String>,
    pub view: View,
    pub interval: Duration,
    pub paused: Option<Duration>,
}

impl Card {
    /// What it is known by: never its place.
    pub fn key(&self) -> &str {
        self.uuid.as_deref().unwrap_or(&self.name)
    }

    /// What may be shown of it.
    pub fn shown(&self, board: &Board, now: Duration) -> Shown<'_> {
        let silent = now.saturating_sub(self.heard);
        let patience = board.interval * 2 + GRACE;
        match &self.look {
            _ if board.paused.is_none() && silent > patience => Shown::Gone("silent", silent, None),
            None => Shown::Waiting,
            Some(Ok(top)) => Shown::Sample(top),
            Some(Err(problem)) => {
                let gone = now.saturating_sub(self.gone.unwrap_or(now));
                Shown::Gone(&problem.code, gone, Some(problem))
            }
        }
    }

    /// What happened to it lately.
    pub fn news(&self, now: Duration) -> Option<News> {
        self.news.filter(|news| {
            let (News::Reset(at) | News::Back(at)) = news;
            now.saturating_sub(*at) < NEWS
        })
    }

    fn hear(&mut self, result: Result<Top, Problem>, now: Duration) {
        self.heard = now;
        match &result {
            Ok(top) => {
                let before = match &self.look {
                    Some(Ok(before)) => before.resets,
                    _ => top.resets,
                };
                if self.gone.take().is_some() {
                    self.news = Some(News::Back(now));
                } else if top.resets > before {
                    self.news = Some(News::Reset(now));
                }
                self.index = top.index.or(self.index);
                self.remember(Moment {
                    busy: top.busy_per_mille,
                    power: power(top),
                });
            }
            Err(_) => {
                self.gone.get_or_insert(now);
                self.remember(Moment {
                    busy: None,
                    power: None,
                });
            }
        }
        self.look = Some(result);
    }

    fn remember(&mut self, moment: Moment) {
        if self.history.len() == HISTORY {
            self.history.pop_front();
        }
        self.history.push_back(moment);
    }
}

/// Power, of its limit.
fn power(top: &Top) -> Option<u64> {
    let limit = top.power_limit_milliwatts?;
    let share = u128::from(top.power_milliwatts?) * 1000;
    u64::try_from(share.checked_div(limit.into())?).ok()
}

impl Board {
    pub fn new(interval: Duration) -> Self {
        Self {
            cards: Vec::new(),
            selected: None,
            view: View::Cards,
            interval,
            paused: None,
        }
    }

    /// A card will be watched, of which nothing came yet.
    pub fn expect(&mut self, watcher: usize, name: &str, uuid: Option<&str>, index: Option<usize>) {
        self.cards.push(Card {
            watcher,
            name: name.into(),
            uuid: uuid.map(Into::into),
            look: None,
            index,
            heard: Duration::ZERO,
            gone: None,
            news: None,
            history: VecDeque::new(),
        });
    }

    /// A look at a card came. Another card where one was is another row; the first stays, as lost.
    pub fn hear(&mut self, look: Look, now: Duration) {
        let same = |card: &Card| card.uuid.is_some() && card.uuid == look.uuid;
        let nameless = |card: &Card| card.watcher == look.watcher && card.uuid.is_none();
        let at = self.cards.iter().position(same);
        let at = at.or_else(|| self.cards.iter().position(nameless));
        let at = at.unwrap_or_else(|| {
            self.expect(look.watcher, &look.name, look.uuid.as_deref(), None);
            self.cards.len() - 1
        });
        for (other, card) in self.cards.iter_mut().enumerate() {
            if other != at && card.watcher == look.watcher {
                let words = format!("another card answers as {}", look.name);
                let problem = Problem {
                    code: "lost".into(),
                    ..Problem::failure(words, "jalctl list shows the devices there are")
                };
                card.hear(Err(problem), now);
            }
        }
        let Some(card) = self.cards.get_mut(at) else {
            return;
        };
        if card.uuid.is_none() && self.selected.as_ref() == Some(&card.name) {
            self.selected.clone_from(&look.uuid);
        }
        card.uuid = card.uuid.take().or(look.uuid);
        (card.name, card.watcher) = (look.name, look.watcher);
        card.hear(look.result, now);
    }

    /// The row that is chosen.
    pub fn chosen(&self) -> usize {
        let mine = |card: &Card| Some(card.key()) == self.selected.as_deref();
        self.cards.iter().position(mine).unwrap_or(0)
    }

    pub fn chosen_card(&self) -> Option<&Card> {
        self.cards.get(self.chosen())
    }

    /// A key was pressed.
    pub fn press(&mut self, key: Key, now: Duration) -> Order {
        match key {
            Key::Quit => return Order::Quit,
            Key::Up => self.choose(self.chosen().saturating_sub(1)),
            Key::Down => self.choose(self.chosen() + 1),
            Key::First => self.choose(0),
            Key::Last => self.choose(usize::MAX),
            Key::Enter if self.view == View::Cards => self.view = View::Details,
            Key::Enter | Key::Back => self.view = View::Cards,
            Key::Help if self.view == View::Help => self.view = View::Cards,
            Key::Help => self.view = View::Help,
            Key::Pause => return self.pause(now),
            Key::Faster => return self.step(|interval, now| interval < now, true),
            Key::Slower => return self.step(|interval, now| interval > now, false),
        }
        Order::Nothing
    }

    fn choose(&mut self, row: usize) {
        let row = row.min(self.cards.len().saturating_sub(1));
        self.selected = self.cards.get(row).map(|card| card.key().to_owned());
    }

    fn pause(&mut self, now: Duration) -> Order {
        self.paused = match self.paused {
            None => Some(now),
            Some(_) => {
                // Nothing was asked meanwhile, so nobody was silent.
                for card in &mut self.cards {
                    card.heard = now;
                }
                None
            }
        };
        Order::Pause(self.paused.is_some())
    }

    fn step(&mut self, fits: impl Fn(Duration, Duration) -> bool, last: bool) -> Order {
        let intervals = INTERVALS.map(Duration::from_millis);
        let mut fitting = intervals.into_iter().filter(|it| fits(*it, self.interval));
        let found = if last {
            fitting.next_back()
        } else {
            fitting.next()
        };
        match found {
            Some(interval) => {
                self.interval = interval;
                Order::Interval(interval)
            }
            None => Order::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn look(watcher: usize, uuid: Option<&str>, result: Result<Top, Problem>) -> Look {
        Look {
            watcher,
            name: format!("vfio-user:/card{watcher}"),
            uuid: uuid.map(Into::into),
            result,
        }
    }

    fn lost() -> Problem {
        Problem {
            code: "lost".into(),
            ..Problem::failure("device lost", "open it again")
        }
    }

    fn board() -> Board {
        let mut board = Board::new(SECOND);
        board.expect(0, "vfio-user:/card0", Some("aaaa"), Some(0));
        board.expect(1, "vfio-user:/card1", Some("bbbb"), Some(1));
        board
    }

    #[test]
    fn what_is_chosen_is_a_card_and_no_place() {
        let mut board = board();
        assert_eq!(board.press(Key::Down, SECOND), Order::Nothing);
        assert_eq!(board.chosen_card().map(Card::key), Some("bbbb"));
        // Another card comes up in its place: a row of its own, and the choice stays.
        board.hear(look(1, Some("bbbb"), Ok(Top::default())), SECOND);
        board.hear(look(1, Some("cccc"), Ok(Top::default())), 2 * SECOND);
        assert_eq!(board.cards.len(), 3);
        let chosen = board.chosen_card().expect("a card");
        assert_eq!(chosen.key(), "bbbb");
        let Shown::Gone("lost", _, Some(problem)) = chosen.shown(&board, 2 * SECOND) else {
            panic!("{chosen:?}");
        };
        assert!(problem.message.contains("another card"), "{problem:?}");
        // It comes back, elsewhere: the same row.
        board.hear(look(0, Some("bbbb"), Ok(Top::default())), 3 * SECOND);
        assert_eq!((board.cards.len(), board.chosen()), (3, 1));
        assert_eq!(board.cards[1].name, "vfio-user:/card0");
        board.press(Key::Last, SECOND);
        board.press(Key::Down, SECOND);
        assert_eq!(board.chosen(), 2);
        board.press(Key::First, SECOND);
        board.press(Key::Up, SECOND);
        assert_eq!(board.chosen(), 0);
    }

    #[test]
    fn a_card_without_a_name_yet_keeps_its_row_when_it_tells_it() {
        let mut board = Board::new(SECOND);
        board.expect(0, "vfio-user:/card0", None, None);
        board.press(Key::Up, SECOND);
        board.hear(look(0, None, Err(lost())), SECOND);
        board.hear(look(0, Some("aaaa"), Ok(Top::default())), SECOND);
        assert_eq!(board.cards.len(), 1);
        assert_eq!(board.chosen_card().map(Card::key), Some("aaaa"));
    }

    #[test]
    fn loss_return_and_reset_are_told_and_then_forgotten() {
        let mut board = board();
        let mut hear = |result, at| board.hear(look(0, Some("aaaa"), result), at);
        hear(Ok(Top::default()), SECOND);
        hear(Err(lost()), 2 * SECOND);
        hear(Err(lost()), 5 * SECOND);
        let Shown::Gone("lost", since, Some(_)) = board.cards[0].shown(&board, 6 * SECOND) else {
            panic!("{board:?}");
        };
        assert_eq!(since, 4 * SECOND);
        board.hear(look(0, Some("aaaa"), Ok(Top::default())), 7 * SECOND);
        assert!(matches!(
            board.cards[0].shown(&board, 7 * SECOND),
            Shown::Sample(_)
        ));
        assert_eq!(
            board.cards[0].news(8 * SECOND),
            Some(News::Back(7 * SECOND))
        );
        assert_eq!(board.cards[0].news(18 * SECOND), None);
        let reset = Top {
            resets: 1,
            ..Top::default()
        };
        board.hear(look(0, Some("aaaa"), Ok(reset)), 20 * SECOND);
        assert_eq!(
            board.cards[0].news(21 * SECOND),
            Some(News::Reset(20 * SECOND))
        );
        let unknown = board.cards[0].history.iter().filter(|it| it.busy.is_none());
        assert_eq!(unknown.count(), 5);
    }

    #[test]
    fn an_old_sample_is_never_shown_as_fresh() {
        let mut board = board();
        assert!(matches!(
            board.cards[0].shown(&board, SECOND),
            Shown::Waiting
        ));
        board.hear(look(0, Some("aaaa"), Ok(Top::default())), SECOND);
        assert!(matches!(
            board.cards[0].shown(&board, 4 * SECOND),
            Shown::Sample(_)
        ));
        let shown = board.cards[0].shown(&board, 6 * SECOND);
        assert!(matches!(shown, Shown::Gone("silent", since, None) if since == 5 * SECOND));
        // While it is paused, the screen says so itself.
        assert_eq!(board.press(Key::Pause, 2 * SECOND), Order::Pause(true));
        assert!(matches!(
            board.cards[0].shown(&board, 60 * SECOND),
            Shown::Sample(_)
        ));
        assert_eq!(board.press(Key::Pause, 60 * SECOND), Order::Pause(false));
        assert!(matches!(
            board.cards[0].shown(&board, 61 * SECOND),
            Shown::Sample(_)
        ));
    }

    #[test]
    fn keys_change_views_and_intervals_within_bounds() {
        let mut board = board();
        board.press(Key::Enter, SECOND);
        assert_eq!(board.view, View::Details);
        board.press(Key::Back, SECOND);
        assert_eq!(board.view, View::Cards);
        board.press(Key::Help, SECOND);
        assert_eq!(board.view, View::Help);
        board.press(Key::Help, SECOND);
        assert_eq!(board.view, View::Cards);
        assert_eq!(
            board.press(Key::Slower, SECOND),
            Order::Interval(2 * SECOND)
        );
        board.interval = Duration::from_millis(700);
        let half = Duration::from_millis(500);
        assert_eq!(board.press(Key::Faster, SECOND), Order::Interval(half));
        for _ in 0..20 {
            board.press(Key::Faster, SECOND);
        }
        assert_eq!(board.interval, Duration::from_millis(100));
        assert_eq!(board.press(Key::Faster, SECOND), Order::Nothing);
        assert_eq!(board.press(Key::Quit, SECOND), Order::Quit);
    }

    #[test]
    fn memory_is_bounded() {
        let mut board = board();
        for _ in 0..2 * HISTORY {
            board.hear(look(0, Some("aaaa"), Ok(Top::default())), SECOND);
        }
        assert_eq!(board.cards[0].history.len(), HISTORY);
    }
}
