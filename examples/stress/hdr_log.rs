//! The HdrHistogram interval log, format 1.3, which other tools plot, merge and compare.
//!
//! Each interval has two histograms: the latency without a tag, and the service time with the tag `service`. Values are
//! nanoseconds.

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::Path,
    time::{Duration, SystemTime},
};

use hdrhistogram::{
    Histogram,
    serialization::{
        V2DeflateSerializer,
        interval_log::{IntervalLogWriterBuilder, Tag},
    },
};

pub(crate) struct HdrLog {
    file: BufWriter<File>,
    serializer: V2DeflateSerializer,
    about: String,
    failure: Option<io::Error>,
}

impl HdrLog {
    /// Makes the file.
    pub(crate) fn create(path: &Path, about: &str) -> io::Result<HdrLog> {
        let file = File::create(path).map_err(|error| {
            io::Error::new(error.kind(), format!("cannot write the HDR log to {}: {error}", path.display()))
        })?;
        Ok(HdrLog {
            file: BufWriter::new(file),
            serializer: V2DeflateSerializer::new(),
            about: about.into(),
            failure: None,
        })
    }

    /// Writes the header: the load begins now, and the intervals' times count from here.
    pub(crate) fn begin(&mut self) {
        let written = IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment(&format!("{}; values are nanoseconds", self.about))
            .with_start_time(SystemTime::now())
            .with_base_time(SystemTime::now())
            .begin_log_with(&mut self.file, &mut self.serializer)
            .map(drop)
            .and_then(|()| {
                writeln!(
                    self.file,
                    "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\""
                )
            });
        if let Err(error) = written {
            self.failed(&error);
        }
    }

    /// Keeps the error for `finish`, so that it does not interrupt the load.
    fn failed(&mut self, error: &dyn std::fmt::Display) {
        self.failure.get_or_insert_with(|| io::Error::other(format!("the HDR log: {error}")));
    }

    /// One interval.
    pub(crate) fn write(
        &mut self,
        start: Duration,
        length: Duration,
        latency: &Histogram<u64>,
        service: &Histogram<u64>,
    ) {
        for (histogram, tag) in [(latency, None), (service, Tag::new("service"))] {
            let written = IntervalLogWriterBuilder::new()
                .begin_log_with(&mut self.file, &mut self.serializer)
                .map_err(|error| error.to_string())
                .and_then(|mut log| {
                    log.write_histogram(histogram, start, length, tag).map_err(|error| error.to_string())
                });
            // Flushed, so that a user can follow the file during the run.
            let written = written.and_then(|()| self.file.flush().map_err(|error| error.to_string()));
            if let Err(error) = written {
                self.failed(&error);
            }
        }
    }

    pub(crate) fn finish(mut self) -> io::Result<()> {
        match self.failure.take() {
            Some(failure) => Err(failure),
            None => self.file.flush(),
        }
    }
}
