// How often is each word in a text? A Flink job: WordCount INPUT [OUTPUT].
//
// INPUT is a file or directory of the machines the job runs on. The whole count is written to OUTPUT, "word TAB count" in each
// line, complete or not at all; without OUTPUT it goes to the standard output of a task manager.

package cloudsched.samples;

import java.io.BufferedWriter;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardCopyOption;
import java.util.HashMap;
import java.util.Map;
import java.util.StringTokenizer;

import org.apache.flink.api.common.RuntimeExecutionMode;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.connector.sink2.Sink;
import org.apache.flink.api.connector.sink2.SinkWriter;
import org.apache.flink.api.connector.sink2.WriterInitContext;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.connector.file.src.FileSource;
import org.apache.flink.connector.file.src.reader.TextLineInputFormat;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.streaming.api.operators.AbstractStreamOperator;
import org.apache.flink.streaming.api.operators.BoundedOneInput;
import org.apache.flink.streaming.api.operators.OneInputStreamOperator;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;

public final class WordCount {
    private static final String BLANKS = " \t\n\r\f";

    private WordCount() {}

    public static void main(String[] words) throws Exception {
        if (words.length < 1 || words.length > 2) {
            throw new IllegalArgumentException("usage: WordCount INPUT [OUTPUT]");
        }
        StreamExecutionEnvironment env = StreamExecutionEnvironment.getExecutionEnvironment();
        env.setRuntimeMode(RuntimeExecutionMode.BATCH);
        FileSource<String> text = FileSource.forRecordStreamFormat(
            new TextLineInputFormat(), new org.apache.flink.core.fs.Path(words[0])).build();
        DataStream<Tuple2<String, Long>> counts = env
            .fromSource(text, WatermarkStrategy.noWatermarks(), "text")
            .rebalance()
            .transform("count here", Types.TUPLE(Types.STRING, Types.LONG), new CountHere())
            .keyBy(pair -> pair.f0)
            .sum(1);
        if (words.length == 2) {
            counts.sinkTo(new OneFile(words[1])).setParallelism(1);
        } else {
            counts.print();
        }
        env.execute("cloudsched word count");
    }

    /** Counts before anything is sent: a word goes over the network once for many times that it was seen. */
    private static final class CountHere extends AbstractStreamOperator<Tuple2<String, Long>>
            implements OneInputStreamOperator<String, Tuple2<String, Long>>, BoundedOneInput {
        private static final int MOST_WORDS = 50_000;

        private transient Map<String, Long> counts;

        @Override
        public void open() throws Exception {
            super.open();
            counts = new HashMap<>();
        }

        @Override
        public void processElement(StreamRecord<String> line) {
            StringTokenizer words = new StringTokenizer(line.getValue(), BLANKS);
            while (words.hasMoreTokens()) {
                counts.merge(words.nextToken(), 1L, Long::sum);
            }
            if (counts.size() > MOST_WORDS) {
                send();
            }
        }

        @Override
        public void endInput() {
            send();
        }

        private void send() {
            counts.forEach((word, count) -> output.collect(new StreamRecord<>(Tuple2.of(word, count))));
            counts.clear();
        }
    }

    /** One text file, which is there when it is complete. */
    private static final class OneFile implements Sink<Tuple2<String, Long>> {
        private final String path;

        OneFile(String path) {
            this.path = path;
        }

        @Override
        public SinkWriter<Tuple2<String, Long>> createWriter(WriterInitContext context) throws IOException {
            return new OneFileWriter(Paths.get(path));
        }
    }

    private static final class OneFileWriter implements SinkWriter<Tuple2<String, Long>> {
        private final Path path;
        private final Path beside;
        private final BufferedWriter file;

        OneFileWriter(Path path) throws IOException {
            this.path = path;
            this.beside = path.resolveSibling(path.getFileName() + ".part");
            this.file = Files.newBufferedWriter(beside, StandardCharsets.UTF_8);
        }

        @Override
        public void write(Tuple2<String, Long> pair, Context context) throws IOException {
            file.write(pair.f0 + "\t" + pair.f1 + "\n");
        }

        @Override
        public void flush(boolean endOfInput) throws IOException {
            file.flush();
            if (endOfInput) {
                file.close();
                Files.move(beside, path, StandardCopyOption.REPLACE_EXISTING);
            }
        }

        @Override
        public void close() throws IOException {
            file.close();
        }
    }
}
