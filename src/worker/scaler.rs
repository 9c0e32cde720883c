//! The element that scales pictures of 4:2:0, 8 or 10 bits a sample: each plane through [`super::resize`], chroma kept where it lies.
//!
//! Rate, colour and interlacing pass as they are; a picture of the right size passes without being touched.

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer_video as gst_video;

use crate::job::Failure;

glib::wrapper! {
    pub struct Scaler(ObjectSubclass<imp::Scaler>)
        @extends gst_video::VideoFilter, gstreamer_base::BaseTransform, gst::Element, gst::Object;
}

/// A new one; which size it makes is told by the caps behind it.
pub fn make() -> Result<gst::Element, Failure> {
    super::elements::init()?;
    let scaler: Scaler = glib::Object::new();
    scaler.set_property("qos", false);
    Ok(scaler.upcast())
}

mod imp {
    use std::sync::{LazyLock, Mutex, PoisonError};

    use gst_video::VideoFrameExt;
    use gst_video::subclass::prelude::*;
    use gstreamer_base::prelude::*;
    use gstreamer_base::subclass::BaseTransformMode;

    use super::*;
    use crate::worker::resize::{Axis, Eight, Resizer, Ten};

    #[derive(Default)]
    pub struct Scaler(Mutex<Option<Planes>>);

    struct Planes {
        luma: Plane,
        chroma: Plane,
    }

    enum Plane {
        Eight(Resizer<Eight>),
        Ten(Resizer<Ten>),
    }

    impl Plane {
        fn new(deep: bool, across: Axis, down: Axis) -> Self {
            if deep { Self::Ten(Resizer::new(across, down)) } else { Self::Eight(Resizer::new(across, down)) }
        }

        fn resize(&mut self, source: &[u8], stride: usize, target: &mut [u8], target_stride: usize) -> bool {
            match self {
                Self::Eight(resizer) => resizer.resize(source, stride, target, target_stride),
                Self::Ten(resizer) => resizer.resize(source, stride, target, target_stride),
            }
        }
    }

    impl Planes {
        fn new(from: &gst_video::VideoInfo, to: &gst_video::VideoInfo) -> Self {
            let size = |n: u32| n.max(1) as usize;
            // Where nothing is said, chroma lies as in MPEG-2: on the left, between the lines.
            let site = match from.chroma_site() {
                site if site.is_empty() => gst_video::VideoChromaSite::MPEG2,
                site => site,
            };
            let on_left = site.contains(gst_video::VideoChromaSite::H_COSITED);
            let on_top = site.contains(gst_video::VideoChromaSite::V_COSITED);
            let (width, height) = ((size(from.width()), size(to.width())), (size(from.height()), size(to.height())));
            let deep = from.format() == gst_video::VideoFormat::I42010le;
            Self {
                luma: Plane::new(deep, luma(width), luma(height)),
                chroma: Plane::new(deep, chroma(width, on_left), chroma(height, on_top)),
            }
        }
    }

    fn luma((from, to): (usize, usize)) -> Axis {
        let ratio = from as f64 / to as f64;
        Axis::new(from, to, ratio, ratio / 2.0 - 0.5)
    }

    /// For luma's sizes; `cosited`: each sample lies on the first of its two of luma, rather than between them.
    fn chroma((from, to): (usize, usize), cosited: bool) -> Axis {
        let ratio = from as f64 / to as f64;
        let offset = if cosited { ratio / 4.0 - 0.25 } else { ratio / 2.0 - 0.5 };
        Axis::new(from.div_ceil(2), to.div_ceil(2), ratio, offset)
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Scaler {
        const NAME: &'static str = "SegmillScaler";
        type Type = super::Scaler;
        type ParentType = gst_video::VideoFilter;
    }

    impl ObjectImpl for Scaler {}
    impl GstObjectImpl for Scaler {}

    impl ElementImpl for Scaler {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
                gst::subclass::ElementMetadata::new("Scaler", "Filter/Video/Scaler", "Resizes pictures", "Segmill")
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let caps = gst_video::VideoCapsBuilder::new()
                    .format_list([gst_video::VideoFormat::I420, gst_video::VideoFormat::I42010le])
                    .field("interlace-mode", "progressive")
                    .build();
                let template = |name, direction| {
                    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps)
                        .expect("the name and the caps are good")
                };
                vec![template("sink", gst::PadDirection::Sink), template("src", gst::PadDirection::Src)]
            });
            &TEMPLATES
        }
    }

    impl BaseTransformImpl for Scaler {
        const MODE: BaseTransformMode = BaseTransformMode::NeverInPlace;
        const PASSTHROUGH_ON_SAME_CAPS: bool = true;
        const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

        /// Only the size and the shape of the samples may change.
        fn transform_caps(
            &self,
            _: gst::PadDirection,
            caps: &gst::Caps,
            filter: Option<&gst::Caps>,
        ) -> Option<gst::Caps> {
            let mut caps = caps.clone();
            for structure in caps.make_mut().iter_mut() {
                structure.set("width", gst::IntRange::new(1, i32::MAX));
                structure.set("height", gst::IntRange::new(1, i32::MAX));
                if structure.has_field("pixel-aspect-ratio") {
                    let (least, most) = (gst::Fraction::new(1, i32::MAX), gst::Fraction::new(i32::MAX, 1));
                    structure.set("pixel-aspect-ratio", gst::FractionRange::new(least, most));
                }
            }
            Some(match filter {
                Some(filter) => filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First),
                None => caps,
            })
        }
    }

    impl VideoFilterImpl for Scaler {
        fn set_info(
            &self,
            _: &gst::Caps,
            from: &gst_video::VideoInfo,
            _: &gst::Caps,
            to: &gst_video::VideoInfo,
        ) -> Result<(), gst::LoggableError> {
            let same = (from.width(), from.height()) == (to.width(), to.height());
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (!same).then(|| Planes::new(from, to));
            self.obj().set_passthrough(same);
            Ok(())
        }

        fn transform_frame(
            &self,
            from: &gst_video::VideoFrameRef<&gst::BufferRef>,
            to: &mut gst_video::VideoFrameRef<&mut gst::BufferRef>,
        ) -> Result<gst::FlowSuccess, gst::FlowError> {
            let mut planes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let planes = planes.as_mut().ok_or(gst::FlowError::NotNegotiated)?;
            for n in 0..3 {
                let plane = if n == 0 { &mut planes.luma } else { &mut planes.chroma };
                let stride = |strides: &[i32]| strides.get(n as usize).and_then(|&stride| usize::try_from(stride).ok());
                let from_stride = stride(from.plane_stride()).ok_or(gst::FlowError::Error)?;
                let to_stride = stride(to.plane_stride()).ok_or(gst::FlowError::Error)?;
                let source = from.plane_data(n).map_err(|_| gst::FlowError::Error)?;
                let target = to.plane_data_mut(n).map_err(|_| gst::FlowError::Error)?;
                if !plane.resize(source, from_stride, target, to_stride) {
                    return Err(gst::FlowError::Error);
                }
            }
            Ok(gst::FlowSuccess::Ok)
        }
    }
}
