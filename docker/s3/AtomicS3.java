import java.io.FileInputStream;
import java.io.InputStream;
import java.nio.file.DirectoryNotEmptyException;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Properties;
import java.util.regex.Pattern;

import org.gaul.s3proxy.PutOptions2;
import org.gaul.s3proxy.S3Proxy;
import org.jclouds.ContextBuilder;
import org.jclouds.blobstore.BlobStore;
import org.jclouds.blobstore.BlobStoreContext;
import org.jclouds.blobstore.domain.Blob;
import org.jclouds.blobstore.domain.PageSet;
import org.jclouds.blobstore.domain.StorageMetadata;
import org.jclouds.blobstore.domain.StorageType;
import org.jclouds.blobstore.domain.internal.PageSetImpl;
import org.jclouds.blobstore.options.ListContainerOptions;
import org.jclouds.blobstore.options.PutOptions;
import org.jclouds.blobstore.util.ForwardingBlobStore;
import org.jclouds.http.HttpCommand;
import org.jclouds.http.HttpRequest;
import org.jclouds.http.HttpResponse;
import org.jclouds.http.HttpResponseException;

/**
 * S3Proxy over a folder, with three things put right that its version 3.3.0 leaves open: a conditional put looked first and
 * wrote later, so of many at once several won; files being written, beside their keys, were listed; and many objects were
 * not removed in one call when one stood for a folder of the others. Usage: AtomicS3 FILE, the same settings as S3Proxy's.
 */
public final class AtomicS3 extends ForwardingBlobStore {
    private static final String ID = "[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}";
    /** Unfinished: KEY-ID while it is put; .mpus-... the parts, and ID the stub, of an upload in parts. */
    private static final Pattern UNFINISHED = Pattern.compile("(?s)\\.mpus-.*|" + ID + "|.*[^/]-" + ID);
    private static final int LOCKS = 1024;

    private final Object[] locks = new Object[LOCKS];

    private AtomicS3(BlobStore store) {
        super(store);
        for (int i = 0; i < LOCKS; i++) {
            locks[i] = new Object();
        }
    }

    /** Looks and writes under one lock a key; this process is the only one that writes to the folder. */
    @Override
    public String putBlob(String container, Blob blob, PutOptions options) {
        String name = blob.getMetadata().getName();
        if (!(options instanceof PutOptions2 conditions) || !"*".equals(conditions.getIfNoneMatch())) {
            return super.putBlob(container, blob, options);
        }
        synchronized (locks[Math.floorMod((container + "/" + name).hashCode(), LOCKS)]) {
            if (blobExists(container, name)) {
                HttpResponse answer = HttpResponse.builder().statusCode(412).message("Precondition Failed").build();
                HttpRequest request = HttpRequest.builder().method("PUT").endpoint("http://localhost/").build();
                throw new HttpResponseException(answer.getMessage(), new HttpCommand(request), answer);
            }
            return super.putBlob(container, blob, options);
        }
    }

    /** An object that stands for a folder is that folder here: it stays as long as something is in it. */
    @Override
    public void removeBlob(String container, String name) {
        try {
            super.removeBlob(container, name);
        } catch (Exception failed) {
            boolean full = failed instanceof DirectoryNotEmptyException || failed.getCause() instanceof DirectoryNotEmptyException;
            if (!full || !name.endsWith("/")) {
                throw failed;
            }
        }
    }

    /** What is in a folder goes before what stands for it. */
    @Override
    public void removeBlobs(String container, Iterable<String> names) {
        List<String> deepestFirst = new ArrayList<>();
        names.forEach(deepestFirst::add);
        deepestFirst.sort(Comparator.reverseOrder());
        deepestFirst.forEach(name -> removeBlob(container, name));
    }

    @Override
    public PageSet<? extends StorageMetadata> list(String container) {
        return list(container, ListContainerOptions.NONE);
    }

    @Override
    public PageSet<? extends StorageMetadata> list(String container, ListContainerOptions options) {
        PageSet<? extends StorageMetadata> page = super.list(container, options);
        List<StorageMetadata> finished = new ArrayList<>();
        for (StorageMetadata item : page) {
            if (item.getType() != StorageType.BLOB || !UNFINISHED.matcher(item.getName()).matches()) {
                finished.add(item);
            }
        }
        return new PageSetImpl<>(finished, page.getNextMarker());
    }

    /** Serves the folder until the process ends. */
    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        try (InputStream file = new FileInputStream(arguments[0])) {
            settings.load(file);
        }
        BlobStoreContext context = ContextBuilder.newBuilder(settings.getProperty("jclouds.provider"))
                .credentials("none", "none")
                .overrides(settings)
                .build(BlobStoreContext.class);
        S3Proxy server = S3Proxy.Builder.fromProperties(settings)
                .blobStore(new AtomicS3(context.getBlobStore()))
                .build();
        server.start();
    }
}
