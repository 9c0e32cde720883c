//! The element that makes 8 bits of BT.709 of 10 bits of high dynamic range, picture by picture through [`super::tone`].

use gstreamer as gst;
use gstreamer::glib;
use gstreamer::prelude::*;
use gstreamer::subclass::prelude::ObjectSubclassIsExt;
use gstreamer_video as gst_video;

use super::tone::Tone;
use crate::job::Failure;
use crate::media::{Colour, Hdr};

glib::wrapper! {
    pub struct ToneMapper(ObjectSubclass<imp::ToneMapper>)
        @extends gst_video::VideoFilter, gstreamer_base::BaseTransform, gst::Element, gst::Object;
}

/// A new one, for pictures of this colour.
pub fn make(colour: Colour, hdr: Hdr) -> Result<gst::Element, Failure> {
    super::elements::init()?;
    let mapper: ToneMapper = glib::Object::new();
    mapper.set_property("qos", false);
    mapper.imp().set(Tone::new(colour, hdr));
    Ok(mapper.upcast())
}

mod imp {
    use std::sync::{LazyLock, OnceLock};

    use gst_video::VideoFrameExt;
    use gst_video::subclass::prelude::*;
    use gstreamer_base::subclass::BaseTransformMode;

    use super::*;
    use crate::worker::tone::Planes;

    #[derive(Default)]
    pub struct ToneMapper(OnceLock<Tone>);

    impl ToneMapper {
        pub(super) fn set(&self, tone: Tone) {
            let _ = self.0.set(tone);
        }
    }

    #[glib::object_subclass]
    impl ObjectSubclass for ToneMapper {
        const NAME: &'static str = "SegmillToneMapper";
        type Type = super::ToneMapper;
        type ParentType = gst_video::VideoFilter;
    }

    impl ObjectImpl for ToneMapper {}
    impl GstObjectImpl for ToneMapper {}

    fn caps(format: gst_video::VideoFormat) -> gst::Caps {
        gst_video::VideoCapsBuilder::new().format(format).build()
    }

    const DEEP: gst_video::VideoFormat = gst_video::VideoFormat::I42010le;
    const PLAIN: gst_video::VideoFormat = gst_video::VideoFormat::I420;

    impl ElementImpl for ToneMapper {
        fn metadata() -> Option<&'static gst::subclass::ElementMetadata> {
            static METADATA: LazyLock<gst::subclass::ElementMetadata> = LazyLock::new(|| {
                let (kind, what) = ("Filter/Converter/Video", "Brings high dynamic range down to BT.709");
                gst::subclass::ElementMetadata::new("ToneMapper", kind, what, "Segmill")
            });
            Some(&METADATA)
        }

        fn pad_templates() -> &'static [gst::PadTemplate] {
            static TEMPLATES: LazyLock<Vec<gst::PadTemplate>> = LazyLock::new(|| {
                let template = |name, direction, format| {
                    gst::PadTemplate::new(name, direction, gst::PadPresence::Always, &caps(format))
                        .expect("the name and the caps are good")
                };
                vec![template("sink", gst::PadDirection::Sink, DEEP), template("src", gst::PadDirection::Src, PLAIN)]
            });
            &TEMPLATES
        }
    }

    impl BaseTransformImpl for ToneMapper {
        const MODE: BaseTransformMode = BaseTransformMode::NeverInPlace;
        const PASSTHROUGH_ON_SAME_CAPS: bool = false;
        const TRANSFORM_IP_ON_PASSTHROUGH: bool = false;

        /// The format and the colours change, and nothing else.
        fn transform_caps(
            &self,
            direction: gst::PadDirection,
            caps: &gst::Caps,
            filter: Option<&gst::Caps>,
        ) -> Option<gst::Caps> {
            let down = direction == gst::PadDirection::Sink;
            let mut caps = caps.clone();
            for structure in caps.make_mut().iter_mut() {
                structure.set("format", if down { PLAIN } else { DEEP }.to_str());
                structure.remove_field("colorimetry");
                structure.remove_field("chroma-site");
                if down {
                    structure.set("colorimetry", "bt709");
                }
            }
            Some(match filter {
                Some(filter) => filter.intersect_with_mode(&caps, gst::CapsIntersectMode::First),
                None => caps,
            })
        }
    }

    impl VideoFilterImpl for ToneMapper {
        fn transform_frame(
            &self,
            from: &gst_video::VideoFrameRef<&gst::BufferRef>,
            to: &mut gst_video::VideoFrameRef<&mut gst::BufferRef>,
        ) -> Result<gst::FlowSuccess, gst::FlowError> {
            let tone = self.0.get().ok_or(gst::FlowError::NotNegotiated)?;
            let stride = |strides: &[i32], n: usize| strides.get(n).and_then(|&n| usize::try_from(n).ok()).unwrap_or(0);
            let from_strides = [0, 1, 2].map(|n| stride(from.plane_stride(), n));
            let to_strides = [0, 1, 2].map(|n| stride(to.plane_stride(), n));
            let size = (from.width() as usize, from.height() as usize);
            let plane = |n: u32| from.plane_data(n).map_err(|_| gst::FlowError::Error);
            let source = Planes {
                luma: (plane(0)?, from_strides[0]),
                cb: (plane(1)?, from_strides[1]),
                cr: (plane(2)?, from_strides[2]),
            };
            let [luma, cb, cr, _] = to.planes_data_mut();
            let target = Planes { luma: (luma, to_strides[0]), cb: (cb, to_strides[1]), cr: (cr, to_strides[2]) };
            if tone.map(size, source, target) { Ok(gst::FlowSuccess::Ok) } else { Err(gst::FlowError::Error) }
        }
    }
}
