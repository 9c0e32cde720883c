//! Names of languages: BCP 47 (RFC 5646) and ISO 639-2, matched with each other.

/// Whether a track in `language` is what `wanted` asks for: RFC 4647 3.3.1 (`de` finds `de-AT`, `de-AT` does not find
/// `de`), with two-letter codes and both kinds of three-letter codes taken for one (`de`, `deu`, `ger`). Case counts for
/// nothing.
pub fn matches(wanted: &str, language: &str) -> bool {
    let mut given = language.split(['-', '_']);
    let found = given.next().map(primary);
    let mut wanted = wanted.split(['-', '_']);
    wanted.next().map(primary) == found
        && wanted.all(|subtag| given.next().is_some_and(|given| given.eq_ignore_ascii_case(subtag)))
}

/// Whether it has the form of a language tag: subtags of 1 to 8 letters and digits, the first of 2 or more letters.
pub fn is_tag(tag: &str) -> bool {
    let letters = |subtag: &str| subtag.len() > 1 && subtag.bytes().all(|byte| byte.is_ascii_alphabetic());
    let subtag = |subtag: &str| (1..=8).contains(&subtag.len()) && subtag.bytes().all(|b| b.is_ascii_alphanumeric());
    tag.len() <= 35 && tag.split('-').all(subtag) && tag.split('-').next().is_some_and(letters)
}

/// The terminological code of ISO 639-2 where there is one; else the subtag itself. In small letters.
fn primary(subtag: &str) -> String {
    let subtag = subtag.to_ascii_lowercase();
    let other = |table: &'static str| {
        table.split(", ").filter_map(|pair| pair.split_once(' ')).find(|(from, _)| *from == subtag).map(|(_, to)| to)
    };
    other(ALPHA_2).or_else(|| other(BIBLIOGRAPHIC)).map_or(subtag.clone(), str::to_owned)
}

/// ISO 639-1, and the terminological code of ISO 639-2 for each.
const ALPHA_2: &str = "\
    aa aar, ab abk, ae ave, af afr, ak aka, am amh, an arg, ar ara, as asm, av ava, ay aym, az aze, ba bak, \
    be bel, bg bul, bh bih, bi bis, bm bam, bn ben, bo bod, br bre, bs bos, ca cat, ce che, ch cha, co cos, \
    cr cre, cs ces, cu chu, cv chv, cy cym, da dan, de deu, dv div, dz dzo, ee ewe, el ell, en eng, eo epo, \
    es spa, et est, eu eus, fa fas, ff ful, fi fin, fj fij, fo fao, fr fra, fy fry, ga gle, gd gla, gl glg, \
    gn grn, gu guj, gv glv, ha hau, he heb, hi hin, ho hmo, hr hrv, ht hat, hu hun, hy hye, hz her, ia ina, \
    id ind, ie ile, ig ibo, ii iii, ik ipk, io ido, is isl, it ita, iu iku, ja jpn, jv jav, ka kat, kg kon, \
    ki kik, kj kua, kk kaz, kl kal, km khm, kn kan, ko kor, kr kau, ks kas, ku kur, kv kom, kw cor, ky kir, \
    la lat, lb ltz, lg lug, li lim, ln lin, lo lao, lt lit, lu lub, lv lav, mg mlg, mh mah, mi mri, mk mkd, \
    ml mal, mn mon, mr mar, ms msa, mt mlt, my mya, na nau, nb nob, nd nde, ne nep, ng ndo, nl nld, nn nno, \
    no nor, nr nbl, nv nav, ny nya, oc oci, oj oji, om orm, or ori, os oss, pa pan, pi pli, pl pol, ps pus, \
    pt por, qu que, rm roh, rn run, ro ron, ru rus, rw kin, sa san, sc srd, sd snd, se sme, sg sag, si sin, \
    sk slk, sl slv, sm smo, sn sna, so som, sq sqi, sr srp, ss ssw, st sot, su sun, sv swe, sw swa, ta tam, \
    te tel, tg tgk, th tha, ti tir, tk tuk, tl tgl, tn tsn, to ton, tr tur, ts tso, tt tat, tw twi, ty tah, \
    ug uig, uk ukr, ur urd, uz uzb, ve ven, vi vie, vo vol, wa wln, wo wol, xh xho, yi yid, yo yor, za zha, \
    zh zho, zu zul";

/// The bibliographic codes of ISO 639-2 that differ from the terminological ones.
const BIBLIOGRAPHIC: &str = "\
    alb sqi, arm hye, baq eus, bur mya, chi zho, cze ces, dut nld, fre fra, geo kat, ger deu, gre ell, \
    ice isl, mac mkd, mao mri, may msa, per fas, rum ron, slo slk, tib bod, wel cym";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_language_has_many_names() {
        for wanted in ["de", "deu", "ger", "DE", "Ger"] {
            for language in ["de", "deu", "ger", "de-AT", "deu_CH"] {
                assert!(matches(wanted, language), "{wanted} finds {language}");
            }
        }
        for (wanted, language) in
            [("zh", "chi"), ("fre", "fr"), ("nl", "dut"), ("cym", "wel"), ("gsw", "gsw"), ("de-at", "ger-AT")]
        {
            assert!(matches(wanted, language), "{wanted} finds {language}");
        }
        for (wanted, language) in [("de", "eng"), ("de-AT", "de"), ("de-AT", "de-CH"), ("en", "und"), ("de", "")] {
            assert!(!matches(wanted, language), "{wanted} does not find {language}");
        }
    }

    #[test]
    fn the_tables_hold_each_code_once() {
        for (table, width, count) in [(ALPHA_2, 2, 184), (BIBLIOGRAPHIC, 3, 20)] {
            let mut codes: Vec<&str> =
                table.split(", ").filter_map(|pair| pair.split_once(' ')).map(|(code, _)| code).collect();
            assert!(table.split(", ").all(|pair| pair.len() == width + 4));
            let all = codes.len();
            codes.sort();
            codes.dedup();
            assert_eq!((codes.len(), all), (count, count));
        }
    }

    #[test]
    fn tags_have_a_form() {
        assert!(["de", "deu", "de-AT", "zh-Hant-TW", "es-419", "sl-rozaj-1994"].iter().all(|tag| is_tag(tag)));
        assert!(["", "d", "de-", "-de", "12", "de AT", "abcdefghi", "d\u{e9}"].iter().all(|tag| !is_tag(tag)));
    }
}
